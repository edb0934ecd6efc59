"""One thread: the models are tiny, and threads of several test runs would wait for each other."""

import torch

torch.set_num_threads(1)
