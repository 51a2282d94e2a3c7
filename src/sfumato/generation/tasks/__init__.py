"""The tasks of the paper over a loaded model: edit, inpaint, upscale, paint, compose.

Each is a function `task(pipeline, what the user gave, draft) -> Job`: it finds the part of the conditioner that takes the
input, whatever it is called, frames the picture so that its sides fit the model, and says what becomes of what was made.
"""
