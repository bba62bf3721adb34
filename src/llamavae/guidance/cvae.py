"""The Invertible CVAE (LlaMaVAE, arXiv 2312.13208): guided generation with a frozen VAE.

A flow models p(z|c), the density of the VAE's latent codes z (D,) under a condition c (C,):

reference     p(z|c) = N(T(z); P c, rho^2 I) |det dT/dz|     z = T^-1(P c + tau * rho * eps)
conditional   p(z|c) = N(T(z; c); 0, I) |det dT/dz|          z = T^-1(tau * eps; c)

where T is the flow, P a learned matrix, rho a learned scale, tau the spread of the draws and eps
standard normal noise. The output of an MLP can be added to P c; see `build_flow`.

Text is decoded from z without any encoder input. Since p(z|c) is exact, the same model ranks
conditions for a given text. The VAE is frozen; only the flow is trained.

The file is long because it is one public class, most of it docstrings.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from llamavae.errors import UserError, check_int, check_number, check_seed, memory_errors
from llamavae.flows import FitConfig, Flow, FlowData, FlowFit, build_flow, fit_flow, load_flow
from llamavae.flows.transforms import regression
from llamavae.guidance._storage import (
    FLOW,
    load_vae,
    read_condition,
    read_fit,
    read_settings,
    save,
)
from llamavae.guidance.conditions import Condition, EncoderCondition, VectorCondition
from llamavae.guidance.pairs import Pairs, cached_centres, cached_vectors
from llamavae.guidance.ranking import Ranking, best_texts
from llamavae.guidance.sampling import Conditions, check_draws, check_pairs, vectors_of
from llamavae.latent.paths import as_codes
from llamavae.modeling import LlaMaVAE, checkpoint
from llamavae.training.prior import posterior


class InvertibleCVAE:
    """A frozen VAE with a conditional density of its latent codes.

    Args:
        vae: The VAE; it is not changed.
        condition: Encodes conditions as vectors c.
        flow: p(z|c), from `build_flow`.

    Attributes:
        vocabulary: Default candidates of `rank`.
        inverse: Coefficients of the regression that `predict` uses (not T^-1); None before `fit`.
        report: Results and settings of the fit; empty before `fit`.
    """

    def __init__(self, vae: LlaMaVAE, condition: Condition, flow: Flow) -> None:
        if flow.features != vae.config.latent_dim or flow.context != condition.dim:
            raise UserError(
                f"expected a flow of D = {vae.config.latent_dim} (VAE) and C = {condition.dim} "
                f"(condition); got D = {flow.features} and C = {flow.context}"
            )
        self.vae, self.condition = vae, condition
        device = vae.posterior.linear.weight.device
        self.flow = flow.to(device).eval()
        if isinstance(condition, EncoderCondition):
            condition.encoder.to(device)
        self.vocabulary: list[str] = []
        self.inverse: dict[str, Tensor] | None = None
        self.report: dict[str, Any] = {}

    @classmethod
    def build(
        cls,
        vae: LlaMaVAE,
        condition: Condition,
        flow: str = "glow",
        form: str = "reference",
        **options: Any,
    ) -> Self:
        """Build the model with a new flow, to be fitted.

        Args:
            vae: The VAE.
            condition: Encodes conditions as vectors c.
            flow: An architecture, see `build_flow`.
            form: `reference` or `conditional`.
            **options: Other options of `build_flow`.
        """
        sizes = vae.config.latent_dim, condition.dim
        return cls(vae, condition, build_flow(flow, *sizes, form=form, **options))

    # ------------------------------------------------------------------ fitting

    def fit(
        self,
        pairs: Pairs,
        valid: Pairs | None = None,
        *,
        vocabulary: Sequence[str] | None = None,
        posterior_scale: float = 1.0,
        config: FitConfig | None = None,
        state: Path | None = None,
        progress: bool = True,
    ) -> FlowFit:
        """Fit p(z|c) on codes drawn from the posteriors of the texts.

        Args:
            pairs: N texts with their conditions.
            valid: Held-out pairs for early stopping; None uses a tenth of the texts, chosen by
                hash, so that copies of a text are in the same part.
            vocabulary: Default candidates of `rank`; default: the conditions of `pairs`.
            posterior_scale: Factor applied to the posterior standard deviations when training
                codes are drawn. Values below 1 keep the codes closer to the posterior means, so
                that they decode more reliably; 0 uses the means.
            config: Training settings of the flow.
            state: Folder for the state of an interrupted fit, see `fit_flow`.
            progress: Show progress bars on stderr.

        Raises:
            UserError: A condition has the wrong dimension or contains NaN, all conditions are
                equal, there are too few pairs, or the fit diverged before its first evaluation.
        """
        check_pairs(self.condition, pairs)
        skipped = Counter(pairs.skipped)
        if valid is None:
            pairs, valid = pairs.split()
        else:
            skipped.update(valid.skipped)
        check_number("posterior_scale", posterior_scale)
        both = len(pairs) > 1 and len(valid) > 0  # other cases are refused by the fit
        if both and (pairs.conditions == pairs.conditions[:1]).all():
            raise UserError(
                f"expected at least two different conditions; all {len(pairs)} are equal, so texts "
                "cannot depend on them"
            )

        def codes(part: Pairs) -> FlowData:
            q = posterior(self.vae, part.texts, progress)
            return FlowData(q.mean, part.conditions, posterior_scale * q.stddev)

        train, rest = codes(pairs), codes(valid)
        fit = fit_flow(
            self.flow,
            train.x,
            train.c,
            noise=train.noise,
            valid=rest,
            config=config,
            state=state,
            progress=progress,
        )
        if fit.stopped == "diverged" and not fit.best_step:
            raise UserError(
                "the fit diverged before its first evaluation, so there is nothing to keep. Try a "
                f"learning rate below {(config or FitConfig()).learning_rate}, or check the "
                "conditions for extreme values"
            )
        self.inverse = self._fit_inverse(train)
        if vocabulary is not None:
            names = vocabulary
        elif isinstance(self.condition, VectorCondition):  # its vectors have no text form
            names = ()
        else:
            names = (*pairs.names, *valid.names)
        self.vocabulary = list(dict.fromkeys(names))
        self.report = {
            **asdict(fit),
            "inverse_error": fit.inverse_error,
            # the key in the settings of the bundled mini-definitions, which model cards read
            "fitting": asdict(config or FitConfig()),
            "posterior_scale": posterior_scale,
            "pairs": len(pairs),
            "held_out": len(valid),
            "skipped": skipped.total(),
            "skipped_words": dict(skipped),
        }
        return fit

    # ------------------------------------------------------------------ condition to text

    @torch.no_grad()
    def generate(
        self,
        conditions: Conditions,
        n: int = 1,
        spread: float = 1.0,
        seed: int | None = None,
        *,
        draws: int | None = None,
        ranking: Ranking | None = None,
        **options: Any,
    ) -> list[str]:
        """Generate texts for each condition, decoded from z alone.

        Args:
            conditions: B conditions, or their vectors (B, C).
            n: Number of texts per condition.
            spread: tau, the factor on the noise of p(z|c); 0 decodes its centre.
            seed: Makes the draws reproducible.
            draws: Number of codes to decode per condition, at least `n`. The first is the centre of
                p(z|c). The `n` best texts are returned in order of their score; a text is repeated
                only if there are fewer than `n` distinct ones. None returns the texts of `n` draws,
                unranked.
            ranking: Scoring of the texts, with `draws`; default: `Ranking()`.
            **options: Options of `LlaMaVAE.decode`.

        Returns:
            B * n texts; the texts of one condition are adjacent.
        """
        if draws is None:
            if ranking is not None:
                raise UserError("ranking needs several draws. Set draws, for example draws=16")
            return self.vae.decode(self.sample_codes(conditions, n, spread, seed), **options)
        check_draws(n, spread, draws)
        ranking = ranking or Ranking()
        c, z = self._draw(conditions, draws, spread, seed, centre=True)
        texts, best = self.vae.decode(z, **options), []
        if not texts:
            return []
        each = len(texts) // len(z)  # more than one with `num_return_sequences`
        z, c = z.repeat_interleave(each, 0), c.repeat_interleave(each, 0)
        for start in range(0, len(texts), draws * each):
            part = slice(start, start + draws * each)
            own = texts[part], z[part], c[start]
            scores = ranking.scores(self, *own, options.get("batch_size", 64))
            best += best_texts(scores, texts[part], n)
        return best

    @torch.no_grad()
    def sample_codes(
        self, conditions: Conditions, n: int = 1, spread: float = 1.0, seed: int | None = None
    ) -> Tensor:
        """Latent codes (B * n, D) drawn from p(z|c); arguments as for `generate`."""
        check_draws(n, spread)
        return self._draw(conditions, n, spread, seed)[1]

    def _draw(
        self, conditions: Conditions, n: int, spread: float, seed: int | None, centre: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Vectors (B * n, C) and draws (B * n, D); with `centre`, the first of n is the centre."""
        check_seed(seed)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        with memory_errors(f"{n:,} latent codes per condition", "Draw fewer at a time"):
            c = self._vectors(conditions).repeat_interleave(n, 0)
            noise = torch.randn(len(c), self.flow.features, generator=generator)
            if centre:
                noise[::n] = 0
            return c, self._place(c, spread * noise)

    @torch.no_grad()
    def translate(self, z: Tensor, source: Conditions, target: Conditions) -> Tensor:
        """Transfer latent codes from one condition to another, keeping the base variable eps.

        T maps z to its standardised base variable eps under `source`, and T^-1 maps this eps to a
        code under `target`.

        Args:
            z: Latent codes (B, D).
            source: Their current conditions, B or one.
            target: The new conditions, B or one.

        Returns:
            Latent codes (B, D).
        """
        z = self._codes(z)
        here = self.flow(self._vectors(source, len(z)))
        noise = (here.transform(z) - here.base.mean) / here.base.stddev
        return self._place(self._vectors(target, len(z)), noise)

    def _place(self, c: Tensor, noise: Tensor) -> Tensor:
        """T^-1(mean + scale * noise) under conditions c (B, C)."""
        p = self.flow(c)
        return p.transform.inv(p.base.mean + p.base.stddev * noise.to(p.base.mean))

    def _vectors(self, conditions: Conditions, rows: int | None = None) -> Tensor:
        c = vectors_of(self.condition, conditions)
        if rows is not None and len(c) not in (1, rows):
            raise UserError(
                f"expected 1 or {rows} conditions for {rows} latent codes; got {len(c)}"
            )
        return c.to(self.flow.affine.weight).expand(rows or len(c), -1)

    # ------------------------------------------------------------------ text to condition

    def log_prob(self, texts: str | Sequence[str], conditions: Conditions) -> Tensor:
        """Logarithm of p(z|c), in nats, at the posterior mean of each text, shape (B,).

        Args:
            texts: B texts.
            conditions: Their conditions, B of them or one.
        """
        return self.log_density(self.vae.encode(texts).mean, conditions)

    @torch.no_grad()
    def log_density(self, z: Tensor, conditions: Conditions) -> Tensor:
        """Log-density of latent codes z (B, D) in nats under B conditions, or one; shape (B,)."""
        z = self._codes(z)
        return self.flow(self._vectors(conditions, len(z))).log_prob(z)

    def rank(
        self, text: str | Tensor, candidates: Conditions | None = None, k: int = 10
    ) -> list[tuple[int, float]]:
        """Rank conditions for a text, as a reverse dictionary does.

        Args:
            text: A text (represented by its posterior mean) or a latent code (D,).
            candidates: V conditions; default: `vocabulary`.
            k: Number of results.

        Returns:
            Index and log p(z|c) in nats of the best `k`, in descending order.
        """
        if candidates is None and self.vocabulary:
            scores = self._vocabulary_scores(self.vae.latent_code(text)[None])
        elif candidates is not None and len(candidates):
            scores = self.scores(self.vae.latent_code(text)[None], candidates)
        else:
            raise UserError(
                "expected candidates, since this model has no vocabulary. Pass conditions, or a "
                "tensor (V, C)"
            )
        check_int("k", k)
        best = scores[0].topk(min(k, scores.shape[1]))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    def _vocabulary_scores(self, z: Tensor) -> Tensor:
        """Log-density in nats of latent codes z (N, D) under the vocabulary, shape (N, V)."""
        cacheable = self.flow.affine.weight.dtype == torch.float32
        cacheable = cacheable and not self.flow.bends_with_context
        if cacheable and isinstance(self.condition, EncoderCondition):
            centres = cached_centres(self.condition, self.vocabulary, self.flow)
            return self.flow.scores_at(self._codes(z), centres)
        return self.scores(z, cached_vectors(self.condition, self.vocabulary))

    @torch.no_grad()
    def scores(self, z: Tensor, candidates: Conditions) -> Tensor:
        """Log-density in nats of N latent codes z (N, D) under V candidates, shape (N, V)."""
        return self.flow.scores(self._codes(z), self._vectors(candidates))

    def _codes(self, z: Any) -> Tensor:
        return as_codes(z, self.flow.features).to(self.flow.affine.weight)

    @torch.no_grad()
    def predict(self, texts: str | Sequence[str]) -> Tensor:
        """Predict the condition vector of each text by least squares, shape (B, C).

        The prediction is a linear function of T(z) in the reference form, where T(z) is the mean of
        the base distribution for c plus noise, and of z in the conditional form. `fit` estimates
        the coefficients.

        Args:
            texts: B texts.
        """
        if self.inverse is None:
            raise UserError("this model is not fitted yet. Call fit first")
        y = self._features(self.vae.encode(texts).mean)
        return self.inverse["mean"] + y.cpu() @ self.inverse["slope"].mT

    def _features(self, z: Tensor) -> Tensor:
        """T(z) if T does not depend on the condition, else z, shape (B, D)."""
        z = z.to(self.flow.affine.weight)
        if self.flow.affine.slope is not None:
            return z
        return self.flow(z.new_zeros(1, self.flow.context)).transform(z)

    @torch.no_grad()
    def _fit_inverse(self, rows: FlowData) -> dict[str, Tensor]:
        assert rows.c is not None
        y = self._features(rows.x).cpu().double()
        c = rows.c.to(y)
        slope = regression(y - y.mean(0), c - c.mean(0), 1.0)
        mean = c.mean(0) - y.mean(0) @ slope.mT
        return {"slope": slope.float(), "mean": mean.float()}

    # ------------------------------------------------------------------ saving, loading

    def save_pretrained(self, folder: str | os.PathLike[str], half: bool = False) -> None:
        """Write the flow, its settings and a model card.

        The VAE is not copied; the settings only record where it is.

        Args:
            folder: Folder; created if missing.
            half: Store the flow's weights in float16, see `save_flow`.
        """
        fitted = self.vocabulary, self.inverse, self.report
        save(folder, self.vae, self.condition, self.flow, *fitted, half)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the model to the hub, in the format of `save_pretrained`.

        Args:
            repo_id: `name` or `organisation/name`; created if missing.
            **options: Options of `LlaMaVAE.push_to_hub`.

        Returns:
            The URL of the commit.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return checkpoint.upload(Path(folder), repo_id, **options)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        vae: LlaMaVAE | str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        word_vectors: str | os.PathLike[str] | None = None,
        encoder: str | os.PathLike[str] | None = None,
        words: Collection[str] | None = None,
        **vae_options: Any,
    ) -> Self:
        """Load a model saved by `save_pretrained`, with its VAE.

        Args:
            source: Folder or hub id.
            vae: The VAE it was fitted for, or its path; default: the recorded one.
            revision: Branch, tag or commit of its hub repository.
            word_vectors: The file of word vectors, if its path has changed.
            encoder: The separate sentence encoder of the condition, if its path has changed.
            words: The words to read from a file of word vectors; None reads the whole file.
            **vae_options: Options of `LlaMaVAE.from_pretrained`.

        Raises:
            UserError: A file is missing or damaged, or the VAE is a different one.
        """
        folder = checkpoint.fetch(source, revision)
        settings = read_settings(folder)
        flow = load_flow(folder / FLOW)
        vae = load_vae(folder, settings, vae, **vae_options)
        paths = {"word-vectors": word_vectors, "encoder": encoder}
        condition = read_condition(folder, settings, vae, words, **paths)
        model = cls(vae, condition, flow)
        model.vocabulary, model.inverse = read_fit(folder)
        model.report = settings["report"]
        return model
