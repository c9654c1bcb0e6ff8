"""What the packages say and how long they take; run by another interpreter, which has them (see _reference.py).

Reads a JSON object per line from stdin, answers with one per line. Models are loaded at the first request for them,
outside the time that is told. Never imports cxrbench.
"""

import contextlib
import io
import json
import os
import sys
import time
import warnings

warnings.filterwarnings("ignore")
CACHE: dict = {}


def chexbert():
    if "chexbert" not in CACHE:
        from f1chexbert import F1CheXbert

        CACHE["chexbert"] = F1CheXbert(device="cpu")
    return CACHE["chexbert"]


def radgraph(folder, kind):
    if "radgraph" not in CACHE:
        from radgraph import F1RadGraph

        CACHE["radgraph"] = F1RadGraph(reward_level="all", model_type=kind, model_cache_dir=folder, cuda=-1)
    return CACHE["radgraph"]


def bertscorer(encoder, layer):
    if "bertscore" not in CACHE:
        from bert_score import BERTScorer

        CACHE["bertscore"] = BERTScorer(model_type=encoder, num_layers=layer, device="cpu", nthreads=0, batch_size=64)
    return CACHE["bertscore"]


def vectors(texts):
    """[CLS] vectors as CXR-Report-Metric makes them for SembScore: padded batches of 18, in the given order."""
    import torch
    from f1chexbert.f1chexbert import generate_attention_masks, tokenize
    from pandas import Series

    model, made = chexbert(), []
    for start in range(0, len(texts), 18):
        rows = tokenize(Series(texts[start : start + 18]), model.tokenizer)
        lengths = [len(row) for row in rows]
        batch = torch.nn.utils.rnn.pad_sequence([torch.LongTensor(row) for row in rows], batch_first=True)
        mask = generate_attention_masks(batch, lengths, "cpu")
        with torch.no_grad():
            made.append(model.model.bert(batch, attention_mask=mask)[0][:, 0])
    return torch.cat(made)


def prepare(request):
    """Load what a request needs, so that it is not timed."""
    what = request["what"]
    if what in ("chexbert", "f1chexbert", "semb", "radcliq"):
        chexbert()
    if what in ("radgraph", "f1radgraph", "radcliq"):
        radgraph(request["radgraph"], request["kind"])
    if what in ("bertscore", "radcliq"):
        bertscorer(request["encoder"], request["layer"])


def answer(request):
    what = request["what"]
    said, true = request.get("predictions", []), request.get("references", [])
    if what == "chexbert":
        return [chexbert().get_label(text) for text in request["texts"]]
    if what == "radgraph":
        found = radgraph(request["radgraph"], request["kind"]).radgraph(request["texts"])
        return [found[str(i)]["entities"] for i in range(len(request["texts"]))]
    if what == "f1chexbert":
        return chexbert()(hyps=said, refs=true)[2]["micro avg"]["f1-score"]
    if what == "f1radgraph":
        return [float(x) for x in radgraph(request["radgraph"], request["kind"])(hyps=said, refs=true)[0]]
    if what == "bertscore":
        return float(bertscorer(request["encoder"], request["layer"]).score(said, true)[2].mean())
    if what == "radcliq":  # its own annotations of the same texts, as CXR-Report-Metric and RadEval make them
        import torch

        radgraph(request["radgraph"], request["kind"])(hyps=said, refs=true)
        cosine = torch.cosine_similarity(vectors(said), vectors(true)).mean()
        return [float(cosine), float(bertscorer(request["encoder"], request["layer"]).score(said, true)[2].mean())]
    raise ValueError(what)


def main():
    os.chdir(sys.argv[1])
    out = sys.stdout
    for line in sys.stdin:
        request = json.loads(line)
        with contextlib.redirect_stdout(io.StringIO()):
            prepare(request)
            start = time.perf_counter()
            found = answer(request)
            spent = time.perf_counter() - start
        out.write(json.dumps({"seconds": spent, "found": found}) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
