"""The authors' implementations at small size, run once to record what the model converters are tested against."""
