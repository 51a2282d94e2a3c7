"""One thread for every test process: several run side by side, and results must not depend on the machine's cores."""

import torch

torch.set_num_threads(1)
