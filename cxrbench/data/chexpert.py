"""The label names of CheXpert, written once for all who use them. Touches nothing."""

from __future__ import annotations

LABELS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    "No Finding",
)
"""The 14 names of CheXpert (Irvin et al., AAAI 2019), in its order but for No Finding, the absence of others."""
