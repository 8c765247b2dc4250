import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repeatable")
os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")


@pytest.fixture(scope="session")
def data_root():
    "Public measuring sets, kept outside the project: ESRDGAN_DATA names the folder that holds Set5 and Set14."
    root = os.environ.get("ESRDGAN_DATA")
    if not root:
        pytest.skip("ESRDGAN_DATA is not set: it names a folder with Set5/HR, Set5/LRbicx4, ...")
    return Path(root)


@pytest.fixture(scope="module")
def one_thread():
    "Networks as small as those of the tests are slowed down by a second thread, and bits depend on their number."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
