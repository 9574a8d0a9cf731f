"""Captions and more from a vision-language model: one answer a picture, checked by rules, asked for again if need be.

The annotation is that of the Qwen-Image Technical Report (section 3.3): a caption in natural language and, in the same
pass, a JSON of caption, type, style, watermarks and abnormal elements, which expert rules check.
"""
