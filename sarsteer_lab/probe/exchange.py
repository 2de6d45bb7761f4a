"""Steering vectors in the format of llama.cpp and repeng."""

from pathlib import Path

from gguf import GGUFWriter

from sarsteer_lab.store import atomic_write
from sarsteer_lab.vectors import SteeringVectors


def export_gguf(vectors: SteeringVectors, path: Path | str, *, model_hint: str) -> None:
    """Write a control vector for llama.cpp and repeng (GGUF, architecture "controlvector").

    `model_hint` is the decoder's model type ("llama", "qwen2", ...). Tensor `direction.{l}` is
    added to the output of layer l, as here. llama.cpp has no place for layer 0, so this raises
    ValueError if there is a vector for it that is not zero (`only` drops it), and OSError, naming
    the path, if it cannot be written.
    """
    kept = [layer for layer in vectors.layers if layer]
    if 0 in vectors.layers and vectors[0].any():
        raise ValueError(f"llama.cpp has no place for layer 0: export vectors.only({kept})")
    try:
        with atomic_write(path) as scratch:
            writer = GGUFWriter(scratch, "controlvector")
            writer.add_string("controlvector.model_hint", model_hint)
            writer.add_uint32("controlvector.layer_count", len(kept))
            for layer in kept:
                writer.add_tensor(f"direction.{layer}", vectors[layer].cpu().numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
