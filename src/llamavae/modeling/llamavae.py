"""LlaMaVAE (arXiv 2312.13208): encoder -> posterior -> injection -> decoder, joined.

h  = pool(E(x))                                   (B, H_enc)
mu, logvar = W h + b                              (B, D) each
z  = mu + exp(logvar / 2) * eps                   (B, D)
loss = mean_b -log p(x|z) + beta * KL_term        nats per sentence

The file is long because it is one public class, most of it docstrings.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TextStreamer,
)
from transformers.utils.generic import ModelOutput

from llamavae.errors import UserError, check_int, check_path, memory_errors, unknown
from llamavae.files import replacing_folder, write_text
from llamavae.latent import arithmetic, average, contrast, nearest_neighbours, traversal
from llamavae.latent.paths import PATHS, as_codes
from llamavae.manifest import verify
from llamavae.modeling import checkpoint, loading
from llamavae.modeling.base import SentenceVAE
from llamavae.modeling.card import model_card
from llamavae.modeling.configuration import SETTINGS, LlaMaVAEConfig
from llamavae.modeling.continuous import ContinuousBatch, decode_continuously
from llamavae.modeling.decoder import TextDecoder, check_options
from llamavae.modeling.encoder import SentenceEncoder
from llamavae.modeling.injection import (
    Injection,
    Steering,
    attention_shapes,
    enable_memory,
)
from llamavae.modeling.posterior import DiagonalGaussian, KLRule, Posterior, kl_term
from llamavae.modeling.prior import Prior, choose_prior
from llamavae.modeling.refine import Progress, Refinement
from llamavae.modeling.refine import refine as refine_posterior
from llamavae.modeling.selfcheck import check_decoder, check_encoder
from llamavae.parsing import as_full_texts

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from llamavae.modeling.sentence_transformer import SentenceTransformerEncoder
    from llamavae.modeling.transformers_encoder import TransformersEncoder

Texts = str | Iterable[str]


@dataclass
class LlaMaVAEOutput(ModelOutput):
    """Output of `LlaMaVAE.forward`; all values in nats.

    Attributes:
        loss: nll + beta * KL term, averaged over sentences, a scalar.
        nll: -log p(x|z), averaged over sentences, a scalar; with `per_sentence`, shape (B,).
        kl: Raw KL(q(z|x) || N(0, I)) per sentence and dimension, shape (B, D).
        kl_term: The KL under the rule in use, a scalar, before beta.
        mean: Posterior mean (B, D).
        logvar: Logarithm of the posterior variance (B, D).
        z: The decoded latent code (B, D).
    """

    loss: Tensor | None = None
    nll: Tensor | None = None
    kl: Tensor | None = None
    kl_term: Tensor | None = None
    mean: Tensor | None = None
    logvar: Tensor | None = None
    z: Tensor | None = None


def _described(
    config: LlaMaVAEConfig, decoder: TextDecoder, encoder: SentenceEncoder | None
) -> LlaMaVAEConfig:
    """The config with what is read from the parts.

    Raises:
        UserError: The parts are not those that the config describes.
    """
    found: dict[str, Any] = {
        f"{t}_token_id": getattr(decoder.tokens, t) for t in ("bos", "eos", "pad")
    }
    if encoder is not None:
        if config.encoder_dim not in (0, encoder.dim):
            raise UserError(
                f"expected an encoder with sentence vectors of size {config.encoder_dim}; got "
                f"size {encoder.dim}"
            )
        found["encoder_dim"] = encoder.dim
    elif not config.encoder_dim:
        raise UserError(
            "a model without a sentence encoder needs encoder_dim, the size of the "
            "precomputed sentence vectors"
        )
    nameless = encoder is not None and config.encoder_name_or_path is None
    if nameless or config.decoder_name_or_path is None:
        found["embed_backbones"] = True  # a backbone without a name is saved in the checkpoint
    if "memory" in config.injection.split("+"):
        shapes = [list(s) for s in attention_shapes(decoder.lm)]
        if config.attention_shapes not in ([], shapes):
            raise UserError(
                f"expected a decoder with (heads, key size, value size) of "
                f"{config.attention_shapes} in its layers; got {shapes}"
            )
        found["attention_shapes"] = shapes
    return config.changed(**found)


class LlaMaVAE(SentenceVAE):
    """A sentence VAE: text -> q(z|x) -> z -> text.

    Build one with `from_backbones`, load one with `from_pretrained`.

    Args:
        config: Its settings.
        decoder: The causal language model that z steers.
        encoder: The sentence encoder; None for a model of precomputed sentence vectors.

    Attributes:
        default_prior: The default prior of `sample`; None is N(0, I). It is saved and loaded with
            the model. Set it to the result of `fit_prior`, or to None after the weights of the
            posterior or the injection change.

    Example:
        >>> model = LlaMaVAE.from_pretrained("mini")  # doctest: +SKIP
        >>> z = model.encode(["a dog is a kind of animal"])  # doctest: +SKIP
        >>> model.decode(z.mean)  # doctest: +SKIP
        ['a dog is a kind of animal']
    """

    config_class = LlaMaVAEConfig
    config: LlaMaVAEConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True

    def __init__(
        self,
        config: LlaMaVAEConfig,
        decoder: TextDecoder,
        encoder: SentenceEncoder | None = None,
    ) -> None:
        config = _described(config, decoder, encoder)
        super().__init__(config)
        self.card: str | None = None  # Markdown that is saved as the checkpoint's README.md
        self.default_prior: Prior | None = None
        self.encoder = encoder
        self.decoder = decoder
        if config.attention_shapes:
            enable_memory(decoder.lm)
        self.posterior = Posterior(
            config.encoder_dim, config.latent_dim, config.standardise, config.initial_std
        )
        self.injection = Injection(
            config.injection,
            config.latent_dim,
            decoder.hidden_size,
            config.attention_shapes,
            config.slots,
            config.injection_hidden,
            config.tied_kv,
            config.scaled_memory,
        )
        trained = [name for name, p in self.named_parameters() if p.requires_grad]
        statistics = [
            f"{part}.{name}"
            for part, module in (("posterior", self.posterior), ("injection", self.injection))
            for name, _ in module.named_buffers()
        ]
        self.trained_names = trained + statistics  # what a checkpoint holds
        self.post_init()
        self.eval()

    def init_weights(self) -> None:
        """Do nothing: the parts are already initialised or pretrained."""

    # ------------------------------------------------------------------ building, saving, loading

    @classmethod
    def from_backbones(
        cls,
        encoder: str | os.PathLike[str] | SentenceTransformer | None,
        decoder: str | os.PathLike[str] | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        decoder_options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Self:
        """A new VAE between a pretrained encoder and a pretrained decoder.

        Args:
            encoder: Hub id or folder of a sentence-transformers model or a transformers encoder
                (with `encoder_pooling`), a `SentenceTransformer`, or None for precomputed
                sentence vectors (with `encoder_dim`).
            decoder: Hub id, folder or GGUF file of a causal language model, or such a model (with
                its `tokenizer`). Both may also be names of the catalogue (`llamavae models`).
            tokenizer: Tokenizer of a decoder that is passed as an object.
            decoder_options: Arguments of `AutoModelForCausalLM.from_pretrained`: `dtype`,
                `device_map`, `quantization_config`, ...
            **settings: Settings of `LlaMaVAEConfig`, such as `latent_dim` and `injection`.

        Raises:
            UserError: A backbone cannot be loaded, or a setting is unknown or out of range.
        """
        for name in settings:
            if name not in SETTINGS:
                raise unknown("setting", name, SETTINGS)
        for which, place in (("encoder", encoder), ("decoder", decoder)):
            if isinstance(place, str | os.PathLike | int | float | bytes | list | tuple | dict):
                check_path(place, f"a hub id, a folder or a model as {which}")
                settings[f"{which}_name_or_path"] = loading.absolute(place)
        config = LlaMaVAEConfig(**settings)
        model = cls(
            *loading.load_backbones(config, encoder, decoder, tokenizer, **(decoder_options or {}))
        )
        if model.encoder is not None and model.encoder.training_mode != "frozen":
            model.encoder.float()  # trained weights are float32, whatever the folder's type
        if model.decoder.training_mode == "full":
            model.decoder.float()
            model.config = model.config.changed(decoder_dtype="float32")
        model.injection.calibrate(model.decoder.lm)
        check_encoder(model)
        check_decoder(model)
        return model

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        encoder: str | os.PathLike[str] | None = None,
        decoder: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        **decoder_options: Any,
    ) -> Self:
        """Load a checkpoint in eval mode, without executing code of it and without unpickling.

        Args:
            pretrained_model_name_or_path: Folder of a checkpoint or of a run, hub id, or name of a
                bundled model.
            encoder: Folder or id to load the encoder from, instead of the one the checkpoint names.
            decoder: The same for the decoder.
            revision: Branch, tag or commit of the checkpoint's hub repository.
            token: Access token for the hub.
            cache_dir: Cache folder for hub files.
            local_files_only: Never contact the hub.
            **decoder_options: `dtype`, `device_map`, `quantization_config`, `attn_implementation`,
                ... for the decoder; the encoder and the trained parts follow its device. The
                default `dtype` is that of the checkpoint, except that a CPU without bfloat16
                instructions uses float32.

        Raises:
            UserError: The checkpoint, one of its files or a backbone is missing, is damaged or does
                not match.
        """
        if "torch_dtype" in decoder_options:  # its old name
            decoder_options.setdefault("dtype", decoder_options.pop("torch_dtype"))
        decoder_options.pop("adapter_kwargs", None)  # `AutoModel` gives this, and the config
        given = decoder_options.pop("config", None)
        hub: dict[str, Any] = {
            "token": token,
            "cache_dir": None if cache_dir is None else os.fspath(cache_dir),
            "local_files_only": local_files_only,
        }
        source = checkpoint.model_of_run(pretrained_model_name_or_path)
        folder = checkpoint.fetch(source, revision, **hub)
        verify(folder)
        config = checkpoint.read_config(folder)
        if given is not None and any(
            getattr(given, name, None) != getattr(config, name) for name in SETTINGS
        ):
            raise UserError(
                "a checkpoint is loaded with its own config; got a different one. Omit config=, or "
                "build a new model with LlaMaVAE.from_backbones"
            )
        given_parts = (("encoder", encoder), ("decoder", decoder))
        others = {which: place for which, place in given_parts if place is not None}
        for which, place in others.items():
            check_path(place, f"a hub id or a folder as {which}")
        saved, config = config, checkpoint.located(folder, config, others)
        model = cls(
            *loading.load_backbones(
                config,
                encoder or checkpoint.backbone(folder, config, "encoder"),
                decoder or checkpoint.backbone(folder, config, "decoder"),
                hub=hub,
                **decoder_options,
            )
        )
        checkpoint.reload(model, folder, others)
        if "encoder" in others:
            check_encoder(model)
        checkpoint.compare_backbones(saved, model.config, others)
        if "decoder" in others or decoder_options.keys() - {"device_map"}:
            check_decoder(model)
        card = folder / checkpoint.CARD
        model.card = card.read_text(encoding="utf-8") if card.is_file() else None
        model.name_or_path = loading.absolute(source)
        model.default_prior = checkpoint.read_prior(model, folder)
        if "device_map" in decoder_options:
            for part in (model.encoder, model.posterior, model.injection):
                if part is not None:
                    part.to(model.decoder.device)
        return model.eval()

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride] one format, fewer options
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "50GB",
        int8: bool = False,
        **hub_options: Any,
    ) -> None:
        """Save settings (JSON), trained weights (safetensors), the default prior and a model card.

        The backbones are referenced by id and revision, or, with `config.embed_backbones`, saved in
        `encoder/` and `decoder/`, from which sentence-transformers and transformers can load them.
        If saving fails, a previous checkpoint in the folder is not changed. The card is that of the
        training run, or one with what the settings say; a card that is in the folder is kept then.

        Args:
            save_directory: Folder; created if missing.
            is_main_process: Whether this process writes. A model whose decoder is distributed over
                processes is saved by a call in all of them.
            state_dict: Weights by name to save instead of the model's own.
            push_to_hub: Also upload to the hub; `hub_options` go to `push_to_hub`.
            max_shard_size: Maximum size of one weight file.
            int8: Store the trained matrices as 8-bit integers, a quarter of the size; weights of
                embedded backbones are not changed. They are loaded as float32.
            **hub_options: `repo_id`, `private`, `commit_message`, `token`, ...
        """
        check_path(save_directory, "the path of a folder")
        state = checkpoint.frozen_state(self, is_main_process) | (state_dict or {})
        if is_main_process:
            with replacing_folder(save_directory, own=checkpoint.OWN) as new:
                checkpoint.write(self, new, state, max_shard_size, int8)
                kept = Path(save_directory) / checkpoint.CARD
                if self.card is None and not kept.is_file():  # a card may have been edited
                    write_text(new / checkpoint.CARD, model_card(self))
        if push_to_hub and is_main_process:
            repo = hub_options.pop("repo_id", Path(save_directory).name)
            checkpoint.upload(Path(save_directory), repo, **hub_options)

    def push_to_hub(  # pyright: ignore[reportIncompatibleVariableOverride] fewer options
        self, repo_id: str, *, max_shard_size: int | str = "50GB", **options: Any
    ) -> str:
        """Upload the checkpoint to the hub, as `save_pretrained` writes it.

        Args:
            repo_id: `name` or `organisation/name`; created if missing.
            max_shard_size: Maximum size of one weight file.
            **options: `private`, `commit_message`, `commit_description`, `revision`,
                `create_pr`, `token`.

        Returns:
            The URL of the commit.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            return checkpoint.upload(Path(folder), repo_id, **options)

    def to_sentence_transformer(self) -> SentenceTransformer:
        """The encoder half as a `SentenceTransformer`, whose vectors are the posterior means.

        It is a copy, in float32 and with LoRA matrices merged. `save_pretrained` writes it, and
        `SentenceTransformer(folder)` loads it. With `attention` pooling, which is not a module of
        sentence-transformers, this needs llamavae and the argument `trust_remote_code`.

        Raises:
            UserError: The model has no sentence encoder.
        """
        from llamavae.modeling.sentence_export import sentence_transformer  # slow import

        if self.encoder is None:
            raise UserError("expected a model with a sentence encoder; this model has none")
        encoder = cast("TransformersEncoder | SentenceTransformerEncoder", self.encoder)
        return sentence_transformer(encoder, self.posterior)

    # --------------------------------------------------------- methods required by transformers

    def get_input_embeddings(self) -> torch.nn.Module:
        """The decoder's input embeddings (V, H)."""
        return self.decoder.embeddings

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        func = kwargs.get("gradient_checkpointing_func")
        reentrant = getattr(func, "keywords", {}).get("use_reentrant", False)
        if reentrant and "memory" in self.config.injection.split("+"):
            raise UserError(
                "reentrant checkpointing drops the gradient of the memory; "
                "use gradient_checkpointing_kwargs={'use_reentrant': False}"
            )
        super()._set_gradient_checkpointing(*args, **kwargs)
        self.train(self.training)  # frozen blocks recompute only in training mode

    # ------------------------------------------------------------------ objective

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        encoder_inputs: dict[str, Tensor] | None = None,
        sentence_vectors: Tensor | None = None,
        noise: Tensor | None = None,
        keep: Tensor | None = None,
        beta: float = 1.0,
        kl_rule: KLRule = "none",
        kl_threshold: float = 0.0,
        per_sentence: bool = False,
    ) -> LlaMaVAEOutput:
        """Negative evidence lower bound of a batch of sentences, in nats per sentence.

        Args:
            input_ids: Decoder ids `bos x_1 ... x_n eos pad ...`, shape (B, T).
            attention_mask: 1 for those tokens, 0 for padding on the right, shape (B, T).
            encoder_inputs: Output of `SentenceEncoder.tokenize` for the same sentences.
            sentence_vectors: h (B, H_enc), instead of `encoder_inputs`, if the encoder is frozen
                and its outputs are cached, or if there is no encoder.
            noise: eps (B, D); None draws it, zeros decode the posterior mean.
            keep: Word dropout: False drops an input token, shape (B, T - 1).
            beta: Weight of the KL term.
            kl_rule: See `kl_term`.
            kl_threshold: See `kl_term`.
            per_sentence: Return nll per sentence.
        """
        posterior = self._posterior(encoder_inputs, sentence_vectors)
        if noise is None:
            noise = torch.randn_like(posterior.mean)
        z = posterior.reparameterise(noise)
        batch = len(input_ids)
        if len(z) != batch:
            raise ValueError(
                f"expected one encoded sentence per row; got {batch} rows and {len(z)} sentences"
            )
        nll = self.decoder.nll(input_ids, attention_mask, self.injection(z), keep, per_sentence)
        mean_nll = nll.mean() if per_sentence else nll / batch
        kl = posterior.kl()
        term = kl_term(kl, kl_rule, kl_threshold)
        return LlaMaVAEOutput(
            loss=mean_nll + beta * term,
            nll=nll if per_sentence else mean_nll,
            kl=kl,
            kl_term=term,
            mean=posterior.mean,
            logvar=posterior.logvar,
            z=z,
        )

    def _posterior(self, inputs: dict[str, Tensor] | None, h: Tensor | None) -> DiagonalGaussian:
        if inputs is not None and h is not None:
            raise ValueError("expected either encoder_inputs or sentence_vectors; got both")
        if h is None:
            if inputs is None:
                raise ValueError("expected encoder_inputs or sentence_vectors; got neither")
            if self.encoder is None:
                raise UserError("this model has no sentence encoder. Pass sentence_vectors")
            h = cast(Tensor, self.encoder(inputs))
        if h.ndim != 2 or h.shape[1] != self.config.encoder_dim:
            raise UserError(
                f"expected sentence vectors of shape (B, {self.config.encoder_dim}); "
                f"got {tuple(h.shape)}"
            )
        return self.posterior(h)

    # ------------------------------------------------------------------ text in

    @torch.no_grad()
    def fit_statistics(self, texts: Sequence[str] | Tensor, batch_size: int = 64) -> None:
        """Set the statistics that standardise sentence vectors, from a sample of training texts.

        Call it once, before training, on a model with `standardise`; the statistics are saved in
        the checkpoint.

        Args:
            texts: N texts, or their sentence vectors (N, H_enc).
            batch_size: Number of texts per forward pass of the encoder.

        Raises:
            UserError: The model does not standardise, or there are fewer than two texts.
        """
        if not self.config.standardise:
            raise UserError(
                "this model does not standardise its sentence vectors; build it with "
                "standardise=True"
            )
        if not isinstance(texts, Tensor):
            if self.encoder is None:
                raise UserError("a model without a sentence encoder needs sentence vectors (N, H)")
            texts = self.encoder.encode(texts, batch_size)
        self.posterior.fit_statistics(texts)

    @torch.no_grad()
    def encode(
        self, texts: Texts | Tensor, batch_size: int = 64, *, refine: int | Refinement = 0
    ) -> DiagonalGaussian:
        """The posterior q(z|x) of each text.

        Args:
            texts: One text, several texts, or precomputed sentence vectors (B, H_enc), as a tensor
                or a NumPy array.
            batch_size: Maximum number of texts per forward pass of the encoder, and of the decoder
                in refinement.
            refine: Number of gradient steps from the encoder's posterior, or their settings; see
                `refine`.

        Returns:
            A torch distribution with `mean` and `logvar` of shape (B, D), and `sample()`.

        Raises:
            UserError: An item is not a text, or is an empty one; a vector is not finite; or a
                setting is out of range.
        """
        how = Refinement.of(refine)
        check_int("batch_size", batch_size)
        if isinstance(texts, np.ndarray) and texts.dtype.kind in "fiu" and texts.ndim > 1:
            texts = torch.from_numpy(texts)
        if how.steps:
            if isinstance(texts, Tensor):
                raise UserError(
                    "refining needs texts; got sentence vectors. Call "
                    "model.refine(texts, steps, start=model.encode(vectors))"
                )
            return self.refine(texts, how, batch_size=batch_size)
        if isinstance(texts, Tensor):
            h = texts
            if not h.isfinite().all():
                raise UserError("expected finite sentence vectors; got NaN or infinite values")
        elif self.encoder is None:
            raise UserError(
                "this model has no sentence encoder. Pass precomputed sentence vectors of "
                f"shape (B, {self.config.encoder_dim}) instead of text"
            )
        else:
            h = self.encoder.encode(as_full_texts(texts), batch_size)
        return self._posterior(None, h.to(self.posterior.linear.weight.device))

    def refine(
        self,
        texts: Texts,
        steps: int | Refinement = 10,
        *,
        start: DiagonalGaussian | Tensor | None = None,
        variance: bool = True,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> DiagonalGaussian:
        """Refine the posterior of each text by gradient steps, with the model frozen.

        The decoder reconstructs the texts more exactly from refined codes than from those of the
        encoder (semi-amortised inference, Kim et al., arXiv 1802.02550). A step costs a forward and
        a backward pass of the decoder for each sentence that is not exact yet.

        Args:
            texts: One text or several.
            steps: Maximum number of steps, or `Refinement` with this and other settings.
            start: Initial posteriors, or initial codes z (B, D) with the variance of the prior.
                None uses the encoder's posteriors, or the prior for a model without an encoder.
            variance: Also optimise the variance of the posteriors; otherwise the variance of
                `start` is returned, which takes less time.
            batch_size: Maximum number of texts per forward pass of the encoder and of the decoder.
            progress: Called after each batch with the numbers of finished and of all texts.

        Returns:
            As `encode` does, one for each text.

        Raises:
            UserError: `start` is not one code for each text, or a setting is out of range.

        Example:
            >>> model = LlaMaVAE.from_pretrained("mini")  # doctest: +SKIP
            >>> model.decode(model.refine("a young river in a foreign town").mean)  # doctest: +SKIP
        """
        how = Refinement.of(steps)
        batch = as_full_texts(texts)
        check_int("batch_size", batch_size)
        if start is not None and not isinstance(start, DiagonalGaussian):
            start = self._latent_codes(start)
        codes = start.mean if isinstance(start, DiagonalGaussian) else start
        if codes is not None and codes.shape != (len(batch), self.config.latent_dim):
            raise UserError(
                f"expected a code for each text as start, shape "
                f"({len(batch)}, {self.config.latent_dim}); got {tuple(codes.shape)}"
            )
        if start is None and self.encoder is not None:
            start = self.encode(batch, batch_size)
        elif not isinstance(start, DiagonalGaussian):
            prior = how.prior_of(self.config.latent_dim)
            mean, logvar = (x.expand(len(batch), -1) for x in (prior.mean, prior.logvar))
            start = DiagonalGaussian(mean if start is None else start.to(mean), logvar)
        weight = self.posterior.linear.weight
        start = DiagonalGaussian(start.mean.to(weight), start.logvar.to(weight))
        with memory_errors("refinement", "Use a smaller batch_size, or fewer samples"):
            return refine_posterior(
                self, batch, start, how, variance=variance, batch_size=batch_size, progress=progress
            )

    def posterior_means(
        self, texts: Texts, batch_size: int = 64, *, refine: int | Refinement = 0
    ) -> Tensor:
        """The latent codes (B, D) that represent texts: the means of their posteriors.

        Refined codes are those of `refine` with `variance=False`. They can differ from the means of
        `encode`, which keeps the encoder's posterior where its objective F is lower.

        Args:
            texts: One text or several.
            batch_size: See `encode`.
            refine: See `encode`.
        """
        if Refinement.of(refine).steps:
            return self.refine(texts, refine, variance=False, batch_size=batch_size).mean
        return self.encode(texts, batch_size).mean

    # ------------------------------------------------------------------ text out

    @torch.no_grad()
    def generate(self, z: Tensor, prompt: str = "", **options: Any) -> Any:
        """Token ids generated from each z, by transformers' `generate`.

        Args:
            z: Latent codes (B, D), or one code (D,).
            prompt: Text at the start of every sentence; names of special tokens in it are text.
            **options: Arguments of transformers' `generate`: `do_sample`, `temperature` (at
                least 1e-6), `top_p`, `num_beams`, `num_return_sequences`, `max_new_tokens`,
                `stopping_criteria`, `logits_processor`, `streamer`, `generation_config`, ...

        Returns:
            New tokens (B * num_return_sequences, T'), without bos and prompt, with adjacent samples
            of each z. With `return_dict_in_generate`, transformers' output with these as its
            `sequences`.
        """
        z = self._latent_codes(z)
        return self.decoder.generate(self.steering(z), len(z), prompt, **options)

    @torch.no_grad()
    def steering(self, z: Tensor) -> Steering:
        """The inputs of the decoder that depend on z, without gradients, to generate from.

        Args:
            z: Latent codes (B, D), or one code (D,).

        Returns:
            Steering for B rows; see `Steering` for the shapes.

        Raises:
            UserError: The codes are not finite, or too large for the decoder.
        """
        z = self._latent_codes(z)
        steering = self.injection(z)
        if len(z) and not steering.is_finite():
            raise UserError(
                f"expected latent codes close to N(0, I), as those of texts are; values up to "
                f"{z.abs().max():.1e} are too large for the decoder"
            )
        return steering

    def decode(self, z: Tensor, batch_size: int = 64, **options: Any) -> list[str]:
        """Decode each z to a text, greedily by default.

        Args:
            z: Latent codes (B, D), or one code (D,).
            batch_size: Maximum number of codes that are decoded at once. Without options other
                than `max_new_tokens`, a code takes the place of each text that has ended, see
                `ContinuousBatch`.
            **options: Options of `generate`.

        Returns:
            B * num_return_sequences texts, with adjacent samples of each z.
        """
        return list(self.decode_each(z, batch_size, **options))

    def decode_each(self, z: Tensor, batch_size: int = 64, **options: Any) -> Iterator[str]:
        """Like `decode`, but yields each text as soon as it and those before it are decoded."""
        z = self._latent_codes(z)
        check_int("batch_size", batch_size)
        if len(z) > 1 and options.keys() <= {"max_new_tokens"} and ContinuousBatch.supports(self):
            check_options(options)
            yield from decode_continuously(self, z, batch_size, options.get("max_new_tokens"))
            return
        for start in range(0, len(z), batch_size):
            part = z[start : start + batch_size]
            output = self.generate(part, **options)
            yield from self.decoder.texts(getattr(output, "sequences", output))

    def stream(self, z: Tensor, callback: Callable[[str], None], **options: Any) -> str:
        """Decode one latent code and call `callback` with each piece of text as it is generated.

        Args:
            z: One latent code, shape (D,) or (1, D).
            callback: Called with the pieces in order; joined and stripped, they are the text.
            **options: Options of `generate`, for a single sequence.
        """
        if not callable(callback):
            raise UserError(f"expected a function as callback; got {callback!r:.40}")
        streamer = _Callback(self.decoder.tokenizer, callback)
        return self.decode(self.latent_code(z), streamer=streamer, **options)[0]

    def _latent_codes(self, z: Any) -> Tensor:
        size, weight = self.config.latent_dim, self.posterior.linear.weight
        return as_codes(as_codes(z, size).to(weight), size)  # finite in this type too

    # ------------------------------------------------------------------ moving in the space

    def reconstruct(
        self,
        texts: Texts,
        *,
        refine: int | Refinement = 0,
        batch_size: int = 64,
        **options: Any,
    ) -> list[str]:
        """Encode each text to its posterior mean and decode it.

        Args:
            texts: One text or several.
            refine: See `encode`.
            batch_size: See `encode` and `decode`.
            **options: Options of `generate`.
        """
        z = self.posterior_means(texts, batch_size, refine=refine)
        return self.decode(z, batch_size, **options)

    def sample_codes(
        self,
        n: int = 1,
        prior: Prior | str | os.PathLike[str] | None = None,
        spread: float = 1.0,
        seed: int | None = None,
    ) -> Tensor:
        """`n` latent codes (n, D) drawn from a prior.

        Args:
            n: Number of codes.
            prior: None for `default_prior`, or N(0, I) if there is none; `standard` for N(0, I);
                `gaussian`, `mixture` or `flow` for a prior saved with the model; the folder of a
                prior; or a `Prior`.
            spread: Factor on the standard deviation of the draws, see `Prior.sample`. Below 1 the
                codes are closer to the centre, where the density of training sentences is higher.
            seed: Makes the draws reproducible on any device; None uses torch's default generator,
                which `torch.manual_seed` controls.

        Raises:
            UserError: The prior does not exist or was fitted for another VAE, or a number is out of
                range.
        """
        return choose_prior(self, prior).sample(n, spread, seed)

    def sample(
        self,
        n: int = 1,
        prior: Prior | str | os.PathLike[str] | None = None,
        spread: float = 1.0,
        seed: int | None = None,
        **options: Any,
    ) -> list[str]:
        """Decode `n` latent codes drawn by `prior`; `options` are those of `decode`."""
        return self.decode(self.sample_codes(n, prior, spread, seed), **options)

    def interpolate(
        self,
        a: str | Tensor,
        b: str | Tensor,
        steps: int = 9,
        mode: Literal["linear", "slerp"] = "linear",
        *,
        refine: int | Refinement = 0,
        **options: Any,
    ) -> list[str]:
        """Texts along a path from `a` to `b`, including both ends.

        Args:
            a: A text (represented by its posterior mean) or a latent code (D,).
            b: The other end.
            steps: Number of codes on the path, at least 2.
            mode: `linear` or `slerp`.
            refine: See `encode`.
            **options: Options of `decode`.
        """
        if mode not in PATHS:
            raise UserError(f"expected mode 'linear' or 'slerp'; got {mode!r}")
        a, b = (self.latent_code(x, refine=refine) for x in (a, b))
        return self.decode(PATHS[mode](a, b, steps), **options)

    def traverse(
        self,
        start: str | Tensor,
        dim: int,
        steps: int = 7,
        *,
        refine: int | Refinement = 0,
        **options: Any,
    ) -> list[str]:
        """Texts decoded while one coordinate of z covers the central 95 % of the prior.

        Args:
            start: A text (represented by its posterior mean) or a latent code (D,).
            dim: Index of the coordinate.
            steps: Number of codes.
            refine: See `encode`.
            **options: Options of `decode`.
        """
        return self.decode(traversal(self.latent_code(start, refine=refine), dim, steps), **options)

    def arithmetic(
        self,
        a: str | Tensor,
        b: str | Tensor,
        c: str | Tensor,
        *,
        refine: int | Refinement = 0,
        **options: Any,
    ) -> list[str]:
        """The text at a - b + c.

        Args:
            a: A text (represented by its posterior mean) or a latent code (D,).
            b: The text or code to subtract.
            c: The text or code to add.
            refine: See `encode`.
            **options: Options of `decode`.
        """
        return self.decode(
            arithmetic(*(self.latent_code(x, refine=refine) for x in (a, b, c))), **options
        )

    def average(
        self,
        texts: Texts,
        weights: Sequence[float] | None = None,
        *,
        refine: int | Refinement = 0,
        batch_size: int = 64,
        **options: Any,
    ) -> list[str]:
        """The text at the weighted mean of the codes of several texts.

        Args:
            texts: N texts, at least one.
            weights: N weights, see `llamavae.latent.average`.
            refine: See `encode`.
            batch_size: See `encode`.
            **options: Options of `generate`.
        """
        z = self.posterior_means(texts, batch_size, refine=refine)
        return self.decode(average(z, weights), **options)

    def direction(
        self,
        positive: Texts,
        negative: Texts,
        *,
        refine: int | Refinement = 0,
        batch_size: int = 64,
    ) -> Tensor:
        """The direction (D,) in the latent space from one kind of texts to another.

        Args:
            positive: Texts that have a property.
            negative: Texts that lack it, best with otherwise similar content.
            refine: See `encode`.
            batch_size: See `encode`.
        """
        return contrast(
            *(self.posterior_means(x, batch_size, refine=refine) for x in (positive, negative))
        )

    def steer(
        self,
        texts: Texts,
        direction: Tensor,
        strength: float = 1.0,
        *,
        refine: int | Refinement = 0,
        batch_size: int = 64,
        **options: Any,
    ) -> list[str]:
        """Move the code of each text along a direction and decode it.

        Args:
            texts: One text or several.
            direction: The direction (D,), such as that of `direction`.
            strength: Factor on the direction; a negative factor moves the other way.
            refine: See `encode`.
            batch_size: See `encode` and `decode`.
            **options: Options of `generate`.
        """
        step = self.latent_code(direction)
        z = self.posterior_means(texts, batch_size, refine=refine)
        return self.decode(z + strength * step, batch_size, **options)

    def neighbours(
        self,
        query: str | Tensor,
        candidates: Sequence[str] | Tensor,
        k: int = 5,
        *,
        refine: int | Refinement = 0,
        batch_size: int = 64,
    ) -> list[tuple[int, float]]:
        """Index and cosine of the `k` candidates nearest to `query`, in descending order of cosine.

        Args:
            query: A text or a latent code (D,).
            candidates: Texts, or their latent codes (N, D).
            k: Number of neighbours.
            refine: See `encode`; only for texts.
            batch_size: See `encode`; only for texts.
        """
        check_int("batch_size", batch_size)
        array: Any = candidates
        if isinstance(array, np.ndarray) and array.dtype.kind in "fiu":
            candidates = torch.from_numpy(array)
        if not isinstance(candidates, Tensor):
            candidates = self.posterior_means(candidates, batch_size, refine=refine)
        query = self.latent_code(query, refine=refine)
        cosine, index = nearest_neighbours(query[None], self._latent_codes(candidates), k)
        return list(zip(index[0].tolist(), cosine[0].tolist(), strict=True))

    def latent_code(self, x: str | Tensor, *, refine: int | Refinement = 0) -> Tensor:
        """The latent code (D,) of a text, its posterior mean; a tensor is returned as a code (D,).

        Args:
            x: A text, or a latent code of shape (D,) or (1, D).
            refine: See `encode`; only for a text.
        """
        if isinstance(x, str):
            return self.posterior_means(x, refine=refine)[0]
        codes = self._latent_codes(x)
        if len(codes) != 1:
            raise UserError(f"expected one latent code (D,); got {len(codes)}")
        return codes[0]


AutoConfig.register(LlaMaVAEConfig.model_type, LlaMaVAEConfig)
AutoModel.register(LlaMaVAEConfig, LlaMaVAE)


class _Callback(TextStreamer):
    """Passes text to a function instead of printing it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, callback: Callable[[str], None]) -> None:
        super().__init__(
            tokenizer,
            skip_prompt=True,
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        self.callback = callback

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.callback(text)
