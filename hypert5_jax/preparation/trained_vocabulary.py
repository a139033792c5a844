"""SentencePiece models trained on the text of small tasks, at their first use."""

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import sentencepiece
import seqio


def train_bpe(
    path: Path, lines: Iterable[str], size: int, whole: Sequence[str] = ()
) -> Path:
    """Writes a BPE model with T5's ids: 0 padding, 1 EOS, 2 the unknown word.

    Equal lines give equal bytes.

    Args:
      path: where to; whole or absent, also after a kill.
      lines: the text.
      size: of the vocabulary, the three ids above included.
      whole: pieces that are never divided, first in the vocabulary.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        user_defined_symbols=list(whole),
        num_threads=1,
        minloglevel=2,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(model.getvalue())
    partial.replace(path)
    return path


class TrainedVocabulary(seqio.SentencePieceVocabulary):
    """A SentencePiece vocabulary whose model is trained when it is first read.

    Args:
      path: of the model.
      train: writes it where it is not there.
      extra_ids: sentinels after the pieces.
    """

    def __init__(self, path: Path, train: Callable[[Path], Path], extra_ids: int):
        self._train = train
        super().__init__(str(path), extra_ids=extra_ids)

    @property
    def sentencepiece_model_file(self) -> str:
        """The model's path; the model is there."""
        path = Path(self._sentencepiece_model_file)
        if not path.exists():
            self._train(path)
        return str(path)

    def _model_context(self):  # what seqio reads the file in, past the property
        _ = self.sentencepiece_model_file
        return super()._model_context()
