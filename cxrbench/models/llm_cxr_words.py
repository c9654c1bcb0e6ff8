"""The words LLM-CXR was trained on: Dolly's frame and ten wordings each of two instructions.

hyn2028/llm-cxr 854a233, training/consts.py and training/mimiccxr_vq_dataset.py.
"""

from __future__ import annotations

INTRO = "Below is an instruction that describes a task. Write a response that appropriately completes the request."

FROM_IMAGE = (
    "Generate free-text radiology reports for the entered chest X-ray images.",
    "Use the entered chest X-ray images to create corresponding free-text radiology reports.",
    "Based on the entered chest X-ray images, produce free-text radiology reports.",
    "Create free-text radiology reports that correspond to the entered chest X-ray images.",
    "Utilize the entered chest X-ray images to generate corresponding free-text radiology reports.",
    "Generate free-text radiology reports in accordance with the entered chest X-ray images.",
    "Use the entered chest X-ray images to create accurate free-text radiology reports.",
    "Produce free-text radiology reports that match the entered chest X-ray images.",
    "Create free-text radiology reports that are consistent with the entered chest X-ray images.",
    "Utilize the entered chest X-ray images to generate comprehensive free-text radiology reports.",
)
"""CXR_VQ_INPUT_INSTRUCTION_LIST, in its order."""

_REPORT = "free-text radiology reports"
_PICTURE = "chest X-ray image"

TO_IMAGE = (
    f"Generate a {_PICTURE} that corresponds to the entered {_REPORT} for the {_PICTURE}.",
    f"Use the {_REPORT} for the {_PICTURE} to produce a corresponding {_PICTURE}.",
    f"Utilize the entered {_REPORT} for the {_PICTURE} to create a corresponding {_PICTURE}.",
    f"Create a {_PICTURE} that matches the {_REPORT} entered for the {_PICTURE}.",
    f"Produce a {_PICTURE} that is consistent with the {_REPORT} entered for the {_PICTURE}.",
    f"Based on the {_REPORT} for the {_PICTURE}, generate a corresponding {_PICTURE}.",
    f"Use the {_REPORT} entered for the {_PICTURE} to create a corresponding {_PICTURE}.",
    f"Generate a {_PICTURE} that is in accordance with the {_REPORT} for the {_PICTURE} entered.",
    f"Create a {_PICTURE} that corresponds to the {_REPORT} entered for the {_PICTURE}.",
    f"Utilize the entered {_REPORT} for the {_PICTURE} to produce a corresponding {_PICTURE}.",
)
"""CXR_VQ_OUTPUT_INSTRUCTION_LIST, in its order."""
