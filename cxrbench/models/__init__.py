"""What a model is: checkpoint layout, prompt, image transform, presets. torch is imported inside functions only."""
