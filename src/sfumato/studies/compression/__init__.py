"""How much should the first stage compress? The paper's Figures 6 and 7 on one's own data.

For each downsampling factor f a first stage and a denoiser are trained for the same device time; the denoisers have the same
number of parameters. Figure 6 is quality against the time that the denoiser was trained, Figure 7 against pictures a second at
several numbers of sampling steps (Rombach et al. 2021, arXiv 2112.10752, section 4.1). Quality is the Frechet distance over
MobileNetV2's features (FD-MobileNetV2, no FID) of pictures without any prompt.
"""
