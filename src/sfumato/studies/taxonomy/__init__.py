"""The family tree of generative models as one page: formulas, pictures and numbers of each family, and its code."""
