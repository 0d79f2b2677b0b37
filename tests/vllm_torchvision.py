"""Makes PyPI's torchvision, which is built for CUDA, load beside a torch without it; scripts/test_vllm.sh installs it.

vLLM imports torchvision wherever it runs. The two operators that the import asks for are declared and never called.
"""

import importlib.abc
import sys


class _Finder(importlib.abc.MetaPathFinder):
    """Acts when torchvision is first imported, and goes: a .pth file runs in every process of the environment."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            _kept.append(torch.library.Library("torchvision", "FRAGMENT"))
            for operator in ("nms", "qnms"):
                _kept[0].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_kept = []  # a library that is collected takes its operators with it
sys.meta_path.insert(0, _Finder())
