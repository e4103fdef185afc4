"""Pre-training knows its processes and leaves nothing behind in the Python process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

TRAIN = textwrap.dedent(
    """
    import sys
    import torch
    from safetensors.torch import save_file
    from pcs_checks.records import RandomRecords
    from pcs_core import load_recipe, open_backbone, pretrain
    from pcs_testing import brief_settings

    plain = load_recipe("ip-adapter")
    settings = [*brief_settings(plain, 2), "adapter.batch=4"]
    recipe = load_recipe("ip-adapter", overrides=settings)
    made = pretrain(recipe, RandomRecords(), open_backbone("tiny"))
    """
)


@pytest.mark.rotated
def test_another_training_chooses_its_own_precision() -> None:
    text = TRAIN + "from accelerate import Accelerator\n"
    text += "assert Accelerator(mixed_precision='bf16', cpu=True).mixed_precision == 'bf16'\n"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        TRAIN
        + "from accelerate import PartialState\n"
        + "assert PartialState(cpu=True).num_processes == 2\n"
        + f"save_file(dict(made.tensors), f'{tmp_path}/{{PartialState(cpu=True).process_index}}.safetensors')\n"
    )
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(
        [sys.executable, *launch],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    files = [tmp_path / f"{rank}.safetensors" for rank in (0, 1)]
    assert files[0].read_bytes() == files[1].read_bytes()
