"""Makes ``peers.py`` beside this file importable as ``dynamic_async_peers``, its classes picklable included."""

import importlib.util
import sys
from pathlib import Path

_NAME = "dynamic_async_peers"
_spec = importlib.util.spec_from_file_location(_NAME, Path(__file__).with_name("peers.py"))
sys.modules[_NAME] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules[_NAME])
