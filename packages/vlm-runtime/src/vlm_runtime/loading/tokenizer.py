"""Text to token ids and back, as a checkpoint's tokenizer files say.

Knows files and strings. Does not know chat roles, media or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_runtime.errors import TokenizerError
from vlm_runtime.loading.rendered import Rendered
from vlm_runtime.loading.special import AddedToken, ControlText, literal_twin
from vlm_runtime.loading.template_files import read_json, read_templates
from vlm_runtime.text.token_bytes import TokenBytes

if TYPE_CHECKING:
    import tokenizers

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """A checkpoint's tokenizer.

    Attributes:
        backend: The `tokenizers.Tokenizer` that does the work.
        config: Content of `tokenizer_config.json` (empty if there is none).
        special_tokens: Text by role name, such as `bos_token` or `image_token`, as chat templates see them.
        added_tokens: Every added token by its text.
        control: Finds the strings that steer the model in text.
        chat_templates: Template sources by name; see `vlm_runtime.loading.template.render`.
        derived: What others build from this tokenizer and want kept as long as it lives.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        config: Mapping[str, Any] | None = None,
        chat_templates: Mapping[str, str] | None = None,
    ) -> None:
        self.backend = backend
        self.config = dict(config or {})
        self.chat_templates = dict(chat_templates or {})
        self.derived: dict[Any, Any] = {}
        self.special_tokens, more = _special_tokens(self.config)
        _declare(backend, self.config.get("added_tokens_decoder") or {}, [*self.special_tokens.values(), *more])
        self.added_tokens = {
            token.content: AddedToken(
                id_, token.content, token.special, token.lstrip, token.rstrip, token.single_word, token.normalized
            )
            for id_, token in sorted(backend.get_added_tokens_decoder().items())
        }
        self.control = ControlText(token for token in self.added_tokens.values() if token.is_control)
        self._watched = {t.id for t in self.control.token_by_content.values()} - {self._id_of("unk_token")}
        backend.no_truncation()
        backend.no_padding()

    @classmethod
    def load(cls, folder: str | Path, *, trust_remote_code: bool = False) -> Tokenizer:
        """Read the tokenizer of the checkpoint in `folder`.

        Raises:
            TokenizerError: It is missing, damaged, or needs a package or remote code that is not available.
        """
        import tokenizers  # 0.04 s, paid only when a model is loaded

        folder = Path(folder)
        config = read_json(folder / "tokenizer_config.json") or {}
        config = {**(read_json(folder / "special_tokens_map.json") or {}), **config}
        path = folder / "tokenizer.json"
        if path.is_file():
            try:
                backend = tokenizers.Tokenizer.from_file(str(path))
            except Exception as error:  # tokenizers raises bare Exception
                raise TokenizerError(f"{path}: expected a tokenizers file, got: {error}; is it damaged?") from error
            added = read_json(folder / "added_tokens.json") or {}
            rows = {str(id_): {"content": content} for content, id_ in added.items()}
            config["added_tokens_decoder"] = {**rows, **(config.get("added_tokens_decoder") or {})}
        else:
            backend = _from_transformers(folder, trust_remote_code=trust_remote_code)
        return cls(backend, config, read_templates(folder, config))

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def bos_token_id(self) -> int | None:
        return self._id_of("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._id_of("eos_token")

    @property
    def pad_token_id(self) -> int | None:
        return self._id_of("pad_token")

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that decoding skips when asked to skip special tokens."""
        return frozenset(token.id for token in self.added_tokens.values() if token.special)

    @cached_property
    def token_bytes(self) -> TokenBytes:
        """What bytes each token stands for."""
        return TokenBytes(self)

    def token_to_id(self, token: str) -> int | None:
        """Id of the token whose text in the vocabulary is exactly `token`, or None."""
        return self.backend.token_to_id(token)

    def id_to_token(self, id_: int) -> str | None:
        """The vocabulary's text of a token id, or None where the vocabulary has a hole."""
        return self.backend.id_to_token(id_)

    def encode(self, text: str, *, add_special_tokens: bool | None = None) -> list[int]:
        """Token ids of a prompt.

        A `Rendered` prompt is encoded by its segments; any other string is trusted, so special tokens in it are matched.

        Args:
            text: The prompt.
            add_special_tokens: Whether to add what the checkpoint puts around a text (a begin token, mostly); None
                adds it unless the text begins with the begin token already.
        """
        if isinstance(text, Rendered):
            return self.encode_segments(text.segments, add_special_tokens=add_special_tokens)
        prefix, suffix = self._around(text, add_special_tokens)
        return [*prefix, *self.backend.encode(_encodable(text), add_special_tokens=False).ids, *suffix]

    def encode_segments(self, segments: Sequence[str], *, add_special_tokens: bool | None = None) -> list[int]:
        """Token ids of joined segments, where a special token is matched only inside one segment."""
        text = "".join(segments)
        prefix, suffix = self._around(text, add_special_tokens)
        ids = self.backend.encode(_encodable(text), add_special_tokens=False).ids
        runs = self._runs(segments)
        wanted = [run.id for run in runs if isinstance(run, AddedToken)]
        if [id_ for id_ in ids if id_ in self._watched] != [id_ for id_ in wanted if id_ in self._watched]:
            ids = self._encode_runs(runs)
        return [*prefix, *ids, *suffix]

    def encode_literal(self, text: str) -> list[int]:
        """Token ids of text in which nothing is special."""
        return list(self._twin_at_start.encode(_encodable(text), add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids; incomplete characters become U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def _id_of(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self.backend.token_to_id(token)

    def _around(self, text: str, add_special_tokens: bool | None) -> tuple[list[int], list[int]]:
        if add_special_tokens is None:
            bos = self.special_tokens.get("bos_token")
            add_special_tokens = not (bos and text.startswith(bos))
        return self._affixes if add_special_tokens else ([], [])

    @cached_property
    def _affixes(self) -> tuple[list[int], list[int]]:
        if "add_bos_token" in self.config or "add_eos_token" in self.config:
            ids = {name: self._id_of(name) for name in ("bos_token", "eos_token")}
            return tuple(  # type: ignore[return-value]
                [id_] if self.config.get(f"add_{name}") and id_ is not None else [] for name, id_ in ids.items()
            )
        encoding = self.backend.encode("a", add_special_tokens=True)
        own = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
        return encoding.ids[: own[0]], encoding.ids[own[-1] + 1 :]

    def _runs(self, segments: Sequence[str]) -> list[str | AddedToken]:
        runs: list[str | AddedToken] = []
        for segment in segments:
            for run in self.control.split(segment):
                if isinstance(run, str) and runs and isinstance(last := runs[-1], str):
                    runs[-1] = last + run
                else:
                    runs.append(run)
        return runs

    def _encode_runs(self, runs: Sequence[str | AddedToken]) -> list[int]:
        ids: list[int] = []
        for run in runs:
            if isinstance(run, AddedToken):
                ids.append(run.id)
            elif run:
                twin = self._twin_inside if ids else self._twin_at_start
                ids += twin.encode(_encodable(run), add_special_tokens=False).ids
        return ids

    @cached_property
    def _twin_at_start(self) -> tokenizers.Tokenizer:
        return self._twin(at_start=True)

    @cached_property
    def _twin_inside(self) -> tokenizers.Tokenizer:
        step = self.backend.pre_tokenizer
        plain = step is None or b'"prepend_scheme":"first"' not in step.__getstate__()
        return self._twin_at_start if plain else self._twin(at_start=False)

    def _twin(self, *, at_start: bool) -> tokenizers.Tokenizer:
        import tokenizers  # as in load

        control = self.control.token_by_content.values()
        return tokenizers.Tokenizer.from_str(literal_twin(self.backend.to_str(), control, at_start=at_start))


def _encodable(text: str) -> str:
    # A lone surrogate (from JSON such as "\ud800") has no UTF-8 form; tokenizers would raise.
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _content(token: Any) -> str | None:
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _special_tokens(config: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Special tokens by name, and the nameless ones."""
    named = {name: content for name in _NAMED if (content := _content(config.get(name))) is not None}
    more: list[str] = []
    for key in ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"):
        extra = config.get(key) or []
        if isinstance(extra, Mapping):
            named |= {name: content for name, token in extra.items() if (content := _content(token)) is not None}
        else:
            more += [content for token in extra if (content := _content(token)) is not None]
    for key, value in config.items():  # image_token and its kin may stand at the top level
        if key.endswith("_token") and key not in named and (content := _content(value)) is not None:
            named[key] = content
    return named, more


def _declare(backend: tokenizers.Tokenizer, rows: Mapping[str, Any], special: Sequence[str]) -> None:
    """Add what the configuration declares and `tokenizer.json` lacks, in order of id.

    Raises:
        TokenizerError: A declared id is not the one the token gets.
    """
    import tokenizers  # as in Tokenizer.load

    declared = backend.get_added_tokens_decoder()
    for id_, row in sorted(((int(key), row) for key, row in rows.items()), key=lambda item: item[0]):
        content = row["content"]
        flags = {key: row[key] for key in ("special", "lstrip", "rstrip", "single_word", "normalized") if key in row}
        known = declared.get(id_)
        if known is not None and known.content == content and all(getattr(known, k) == v for k, v in flags.items()):
            continue
        flags.setdefault("special", content in special)
        backend.add_tokens([tokenizers.AddedToken(content, **flags)])
        if backend.token_to_id(content) != id_:
            raise TokenizerError(
                f"added token {content!r}: the configuration says id {id_}, the tokenizer gives "
                f"{backend.token_to_id(content)}; are these files of one checkpoint?"
            )
    added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    for content in dict.fromkeys(special):
        if content not in added or not added[content].special:
            backend.add_special_tokens([tokenizers.AddedToken(content, special=True, normalized=False)])


def _from_transformers(folder: Path, *, trust_remote_code: bool) -> tokenizers.Tokenizer:
    """Convert a tokenizer that has no `tokenizer.json`."""
    import tokenizers  # as in Tokenizer.load

    if not any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.model", "vocab.json")):
        raise TokenizerError(f"{folder}: expected tokenizer.json, found no tokenizer files; is the download complete?")
    from transformers import AutoTokenizer  # 1 s, and needed for few checkpoints

    try:
        converted = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except (ImportError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(
            f"{folder}: no tokenizer.json, and transformers cannot convert the tokenizer: {str(error).splitlines()[0]}"
        ) from error
    backend = getattr(converted, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise TokenizerError(
            f"{folder}: {type(converted).__name__} has no tokenizers form; save it with a tokenizer.json first"
        )
    return tokenizers.Tokenizer.from_str(backend.to_str())
