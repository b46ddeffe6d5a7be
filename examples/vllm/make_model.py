"""Makes a small Llama model with random weights: a configuration, a tokenizer and a chat template.

The tokenizer is trained on the words that the workload's prompts are made of, with a vocabulary so small that a token
is about four bytes of such text, as it is with real models and real text.
"""

import argparse
import json
import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

WORDS = Path(__file__).parent.parent / "src" / "workload" / "words.txt"
VOCABULARY = 1500
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def sentences(count: int) -> list[str]:
    """Sentences like those of the workload."""
    choose = random.Random(1)
    words = WORDS.read_text().split()
    return [" ".join(choose.choices(words, k=choose.randint(6, 15))).capitalize() + "." for _ in range(count)]


def train_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(20_000), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>", chat_template=CHAT_TEMPLATE
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path, help="where to put the model")
    folder = arguments.parse_args().folder
    tokenizer = train_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        architectures=["LlamaForCausalLM"],
        torch_dtype="bfloat16",
    )
    config.save_pretrained(folder)
    sample = " ".join(sentences(500))
    ratio = len(sample) / len(tokenizer.encode(sample))
    print(json.dumps({"folder": str(folder), "vocabulary": len(tokenizer), "bytes_per_token": round(ratio, 2)}))


if __name__ == "__main__":
    main()
