"""`hf:DIR` on a CLIP: vectors equal transformers' own, on a small random checkpoint that transformers saved."""

import json

import numpy as np
import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.models.base import ModelOptions
from tests.commands import cli  # noqa: F401  (a fixture)

torch = pytest.importorskip("torch")

TEXTS = (
    "The heart is normal in size. The lungs are clear.",
    "Small left pleural effusion.",
    "Mild cardiomegaly with a small right pleural effusion, and a long text that goes on past the positions there are.",
)
LONGEST = 20


def make(folder):
    """A CLIP folder in the layout of the hub: config, weights, processor, CLIP's own tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = ["<|startoftext|>", "<|endoftext|>"]
    bpe.train_from_iterator(
        [text.lower() for text in TEXTS],
        trainers.BpeTrainer(
            vocab_size=700, special_tokens=ends, end_of_word_suffix="</w>",
            initial_alphabet=[*letters, *(f"{letter}</w>" for letter in letters)],
        ),
    )  # fmt: skip
    made = json.loads(bpe.to_str())["model"]
    tokenizer = CLIPTokenizer(vocab=made["vocab"], merges=[tuple(pair) for pair in made["merges"]])
    tokenizer.model_max_length = LONGEST
    bos, eos = (tokenizer.convert_tokens_to_ids(end) for end in ends)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": LONGEST, "bos_token_id": bos, "eos_token_id": eos}
    config = CLIPConfig(
        text_config={**sizes, **text}, vision_config={**sizes, "image_size": 28, "patch_size": 14}, projection_dim=16
    )
    torch.manual_seed(5)
    model = CLIPModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    pixels = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    CLIPProcessor(image_processor=pixels, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("clip") / "small-clip")


def options(folder, **more):
    return ModelOptions(argument=str(folder), access="open", device="cpu", dtype="fp32", **more)


def pictures():
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((64, 80), (90, 41), (28, 28))]


def theirs(folder):
    """transformers' own way from text and picture to vectors."""
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    processor = CLIPProcessor.from_pretrained(folder)
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    shown = [Image.fromarray(each).convert("RGB") for each in pictures()]
    with torch.inference_mode():
        made = CLIPModel.from_pretrained(folder).eval()(
            **processor(text=list(TEXTS), images=shown, return_tensors="pt", padding=True, truncation=True)
        )
    return made.image_embeds.numpy(), made.text_embeds.numpy()


def ours(folder, kind, batch):
    """The vectors as a run makes them."""
    from cxrbench.engines.build import make_model
    from cxrbench.types import Generation, Image, Sample

    images = pictures()
    model = make_model("hf", options(folder, read_image=lambda path: images[int(path)]))
    samples = [
        Sample(str(n), str(n), None, text, (Image(f"i{n}", str(n), "PA"),), f"i{n}", {"findings": text})
        for n, text in enumerate(TEXTS)
    ]
    requests = [model.request(sample, kind, Generation(), 0) for sample in samples]
    prepared = [model.prepare(request) for request in requests]
    found, cut = {}, []
    for start in range(0, len(prepared), batch):
        made = model.generate(0, prepared[start : start + batch])
        found |= made.outputs
        cut += [each.finish_reason for each in made.predictions]
    return np.stack([found[str(n)] for n in range(len(TEXTS))]), cut


@pytest.mark.parametrize("batch", [1, 3])
def test_vectors_are_those_of_transformers(folder, batch):
    images, texts = theirs(folder)
    made, _ = ours(folder, "embed_image", batch)
    assert np.abs(made - images).max() < 1e-6
    made, ends = ours(folder, "embed_text", batch)
    assert np.abs(made - texts).max() < 1e-6
    assert ends == ["stop", "stop", "length"]
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-6)
    assert np.abs(made[0] - made[1]).max() > 0.05  # texts are told apart


@pytest.mark.slow
def test_a_retrieval_run_from_command_to_table(cli, folder, tmp_path):
    from tests.test_beyond_findings import RETRIEVAL, run

    code, out, err = run(cli, tmp_path, RETRIEVAL, f"hf:{folder}")
    assert code == 0, err
    assert "retrieval:same-text" in out
    assert "scored 24 of 24" in out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["identity"]["model"]["name"] == "hf:small-clip"
    assert manifest["identity"]["model"]["longest"] == LONGEST


def test_it_writes_no_text(cli, folder):
    code, _, err = cli("run", "--model", f"hf:{folder}", "--task", "demo-findings", "--limit", 4)
    assert code == 2
    assert "hf:small-clip cannot answer 'generate', which demo-findings asks" in err
    assert "embed_image, embed_text" in err


def test_a_folder_that_lacks_a_part_is_named(folder, tmp_path):
    import shutil

    from cxrbench.engines.build import make_model

    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    with pytest.raises(CxrbenchError, match="safetensors"):
        make_model("hf", options(copy))
    copy = shutil.copytree(folder, tmp_path / "again")
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(CxrbenchError, match="the folder has no tokenizer"):
        make_model("hf", options(copy)).identity()


def test_another_models_tokenizer_is_refused(folder, tmp_path):
    """A text's vector is read at its end token: with another tokenizer it would be that of any token."""
    import shutil

    from cxrbench.engines.build import make_model

    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["eos_token_id"] += 5
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CxrbenchError, match="does not end in the token its vector is read from"):
        make_model("hf", options(copy)).identity()


def test_weights_that_do_not_fit_are_refused(folder, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    from cxrbench.engines.build import make_model

    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CxrbenchError, match="are missing and would be random"):
        make_model("hf", options(copy)).circumstances()


def test_positions_that_old_files_keep_are_no_odd_weights(folder, tmp_path):
    """OpenAI's files hold `position_ids`, which the class works out by itself."""
    import shutil

    from safetensors.torch import load_file, save_file

    from cxrbench.engines.build import make_model

    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(LONGEST)[None]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    make_model("hf", options(copy)).circumstances()


@pytest.mark.parametrize("argument", ["~nobody-is-called-this", "a" * 300, "a\0b"])
@pytest.mark.parametrize("name", ["hf", "llava-rad", "medgemma"])
def test_a_name_that_is_no_folder_is_refused_in_a_sentence(name, argument):
    from cxrbench.engines.build import make_model

    with pytest.raises(CxrbenchError, match=r"there is no folder|a folder cannot be called"):
        make_model(name, ModelOptions(argument=argument))
