"""One thread: the models are tiny, and threads of several test runs would wait for each other."""

import os

import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for the network fails at once

torch.set_num_threads(1)
