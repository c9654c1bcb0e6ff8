"""The checkpoints that the pages' commands speak of: small, with random weights, in the layouts people have.

Every function puts one thing into a page's folder, as those of docs_world.py do.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def clip(world) -> None:
    """The folder CLIP."""
    from tests.models import test_hf_clip

    test_hf_clip.make(world.folder / "CLIP")


def checkpoint(world) -> None:
    """/models/my-checkpoint, /models/new and DIR: one tiny LLaVA."""
    from tests import tiny_llava

    def make(folder: Path) -> None:
        tiny_llava.make(folder)
        file = folder / "config.json"
        body = json.loads(file.read_text(encoding="utf-8"))
        body["text_config"]["max_position_embeddings"] = 4096  # room for the 300 tokens that `matched` allows
        file.write_text(json.dumps(body), encoding="utf-8")

    made = world.store("tiny", make)
    for name in ("models/my-checkpoint", "models/new", "DIR"):
        shutil.copytree(made, world.folder / name)


def slava_folder(world) -> None:
    from tests import released

    shutil.copytree(world.store("slava", released.slava) / "model", world.folder / "DIR")


def slava_known(world) -> None:
    slava_folder(world)
    world.must("models", "add", "slava", "--path", "DIR")


def rad_known(world) -> None:
    from tests import released

    places = released.llava_rad(world.folder / "rad")
    world.must("models", "add", "llava-rad", "--path", places["path"], "--base", places["base"])


def maira(world) -> None:
    from tests import released_more

    (world.folder / "DIR").symlink_to(released_more.maira_2(world.folder / "maira")["path"])


def chexagent_known(world) -> None:
    from tests import released_more

    world.must("models", "add", "chexagent-2", "--path", released_more.chexagent_2(world.folder / "chexagent")["path"])


def towers(world) -> None:
    """LLAVA-RAD and BIOMEDBERT: the folders of the two towers."""
    from tests import released
    from tests.models.test_biomedclip_cxr import bert_tokenizer

    (world.folder / "LLAVA-RAD").symlink_to(released.llava_rad(world.folder / "rad")["path"])
    bert_tokenizer(world.folder / "BIOMEDBERT")
