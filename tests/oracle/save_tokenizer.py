"""Reads the tokenizer of a model directory with transformers, and saves it there again."""

import sys

from transformers import AutoTokenizer

AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])
