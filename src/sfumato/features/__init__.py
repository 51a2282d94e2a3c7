"""Frozen feature extractors: the embedded MobileNetV2, and VGG16 from a user's file."""
