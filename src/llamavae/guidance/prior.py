"""A prior fitted after training: the density of the points that sentences really have.

The decoder has learnt to read the aggregate posterior q(z) = E_x q(z|x), and N(0, I) covers more
than it: some of its points belong to no sentence. A density that is fitted to q(z) once the VAE is
trained is a better place to draw from (ex-post density estimation, Ghosh et al., 1903.12436).
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

from llamavae.errors import UserError, unknown
from llamavae.flows import Fitting, Flow, Rows, build_flow, fit_flow, load_flow, save_flow
from llamavae.guidance.asked import seeded
from llamavae.guidance.cvae import latent_fingerprint, posterior
from llamavae.modeling import LlaMaVAE
from llamavae.pretrained import shipped

FORMAT_VERSION = 1
COMPONENTS = (1, 2, 5, 10, 20, 50)
"""Sizes that a mixture is chosen from."""
_SETTINGS, _WEIGHTS = "prior.json", "prior.safetensors"
_PLACE = "priors"  # folder for them inside that of the model
_CHUNK = 1024  # points whose density is computed together

PriorKind = Literal["gaussian", "mixture", "flow"]


class Prior(ABC):
    """A density of points z (D,) that stands in for N(0, I). `fit_prior` makes one.

    It lives on the CPU in float32; `LlaMaVAE.decode` moves what it draws.

    Attributes:
        report: How it was fitted, with held-out NLLs in nats per dimension, lower is better:
            `nll`, and `references` with those of `standard`, N(0, I), and of a full-covariance
            `gaussian` fitted to the same points.
        fingerprint: Of the VAE whose points they are; None where that is not known.

    Example:
        >>> points = 3 + 0.5 * torch.randn(400, 2)
        >>> prior = fit_prior(points, "gaussian")
        >>> prior.sample(5, seed=1).shape, prior.log_prob(points).shape
        (torch.Size([5, 2]), torch.Size([400]))
        >>> prior.report["nll"] < prior.report["references"]["standard"]
        True
    """

    def __init__(self) -> None:
        self.report: dict[str, Any] = {}
        self.fingerprint: str | None = None

    @property
    @abstractmethod
    def features(self) -> int:
        """Size D."""

    @abstractmethod
    def distribution(self) -> Distribution:
        """As a torch distribution with event shape (D,)."""

    @abstractmethod
    def _draw(self, n: int, scale: float, generator: torch.Generator | None) -> Tensor: ...

    def sample(self, n: int = 1, scale: float = 1.0, seed: int | None = None) -> Tensor:
        """`n` points (n, D).

        Args:
            n: Number of points.
            scale: Below 1 they stay nearer the centres: of the components of a mixture, of the
                Gaussian that a flow transforms.
            seed: Makes the draws repeatable; None draws from torch's own generator.
        """
        if n < 1:
            raise UserError(f"ask for at least one sample; got n={n}")
        if not scale >= 0:
            raise UserError(f"scale must not be negative; got {scale}")
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        with torch.no_grad():
            return self._draw(n, scale, generator)

    @torch.no_grad()
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of points (B, D) in nats, shape (B,).

        Raises:
            UserError: The points are of another size, or not finite.
        """
        z = Rows(torch.as_tensor(z)).checked("the points", self.features, 0).x.float()
        p = self.distribution()
        return torch.cat([p.log_prob(part) for part in z.split(_CHUNK)])

    def nll(self, z: Tensor) -> float:
        """Mean negative log-density of points (B, D), in nats per dimension."""
        return -self.log_prob(z).double().mean().item() / self.features

    def check(self, vae: LlaMaVAE) -> None:
        """Refuse a VAE that the prior was not fitted for.

        Raises:
            UserError: Its points have another size, or its weights are others.
        """
        size = vae.config.latent_dim
        if size != self.features:
            raise UserError(
                f"this prior draws points of size {self.features}; the VAE has D = {size}"
            )
        if self.fingerprint not in (None, latent_fingerprint(vae)):
            raise UserError(
                f"this prior was fitted for another VAE than {vae.name_or_path or 'this one'}: its "
                "points mean something else there. Fit one for it, in the dtype in which it will "
                "be used, with llamavae fit-prior"
            )

    # ------------------------------------------------------------------ saving, loading

    kind: ClassVar[str]

    @abstractmethod
    def _save(self, path: Path) -> None: ...

    @classmethod
    @abstractmethod
    def _load(cls, path: Path) -> Self: ...

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write weights (safetensors) and report (JSON); what was in the folder is replaced.

        Args:
            folder: Made if missing.
        """
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        settings = {
            "format_version": FORMAT_VERSION,
            "type": self.kind,
            "vae_fingerprint": self.fingerprint,
            "report": self.report,
        }
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder.parent) as new:
            self._save(Path(new, _WEIGHTS))
            Path(new, _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
            folder.mkdir(exist_ok=True)
            for name in (_WEIGHTS, _SETTINGS):
                Path(new, name).replace(folder / name)


class MixturePrior(Prior):
    """A mixture of Gaussians with full covariances; one component is a Gaussian.

    Args:
        weights: Probability of each component (K,).
        means: Their means (K, D).
        scale_tril: Cholesky factors of their covariances (K, D, D).
    """

    kind = "mixture"

    def __init__(self, weights: Tensor, means: Tensor, scale_tril: Tensor) -> None:
        super().__init__()
        self.weights, self.means, self.scale_tril = weights, means, scale_tril

    @property
    def features(self) -> int:
        """Size D."""
        return self.means.shape[1]

    def distribution(self) -> MixtureSameFamily:
        """As a torch distribution with event shape (D,)."""
        components = MultivariateNormal(self.means, scale_tril=self.scale_tril)
        return MixtureSameFamily(Categorical(self.weights), components)

    def _draw(self, n: int, scale: float, generator: torch.Generator | None) -> Tensor:
        k = torch.multinomial(self.weights, n, True, generator=generator)
        noise = scale * torch.randn(n, self.features, generator=generator)
        return self.means[k] + (self.scale_tril[k] @ noise[..., None])[..., 0]

    def _save(self, path: Path) -> None:
        tensors = {"weights": self.weights, "means": self.means, "scale_tril": self.scale_tril}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)

    @classmethod
    def _load(cls, path: Path) -> Self:
        return cls(**load_file(path))


class FlowPrior(Prior):
    """A flow without a context.

    Args:
        flow: From `build_flow`, with context 0.
    """

    kind = "flow"

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        if flow.context:
            raise UserError(f"a prior has no condition; this flow has one of size {flow.context}")
        self.flow = flow.eval()

    @property
    def features(self) -> int:
        """Size D."""
        return self.flow.features

    def distribution(self) -> Distribution:
        """As a torch distribution with event shape (D,)."""
        return self.flow()

    def _draw(self, n: int, scale: float, generator: torch.Generator | None) -> Tensor:
        p = self.flow()
        noise = scale * torch.randn(n, self.features, generator=generator)
        return p.transform.inv(p.base.mean + p.base.stddev * noise)

    def _save(self, path: Path) -> None:
        save_flow(self.flow, path)

    @classmethod
    def _load(cls, path: Path) -> Self:
        return cls(load_flow(path))


_TYPES: dict[str, type[Prior]] = {kind.kind: kind for kind in (MixturePrior, FlowPrior)}


def load_prior(source: str | os.PathLike[str], vae: LlaMaVAE | None = None) -> Prior:
    """What `Prior.save` wrote.

    Args:
        source: Its folder; or, with a VAE that was loaded from a folder, the name of one that
            `llamavae fit-prior` left inside: `gaussian`, `mixture` or `flow`.
        vae: The VAE that will decode its points; another one than it was fitted for is refused.

    Raises:
        UserError: There is none, it is damaged, or it was fitted for another VAE.
    """
    inside = None if vae is None else place_inside(vae, os.fspath(source))
    places = [Path(source), *([] if inside is None else [inside])]
    folder = next((place for place in places if (place / _SETTINGS).is_file()), None)
    if folder is None:
        raise UserError(
            f"there is no prior {' or '.join(map(str, places))}. To make one: llamavae fit-prior"
        )
    try:
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        if settings["format_version"] > FORMAT_VERSION:
            raise UserError(
                f"{folder} has format {settings['format_version']}; this version of llamavae reads "
                f"up to {FORMAT_VERSION}. Upgrade llamavae"
            )
        prior = _TYPES[settings["type"]]._load(folder / _WEIGHTS)
        prior.report, prior.fingerprint = settings["report"], settings["vae_fingerprint"]
    except UserError:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the prior in {folder} is damaged: {error!r}. Fit it again") from error
    if vae is not None:
        prior.check(vae)
    return prior


def place_inside(vae: LlaMaVAE, name: str) -> Path | None:
    """Where a prior lies in the folder of a VAE; None for a VAE that was not loaded from one."""
    folder = shipped(vae.name_or_path or "") or vae.name_or_path
    return Path(folder, _PLACE, name) if folder and Path(folder).is_dir() else None


# ------------------------------------------------------------------------------- fitting


def aggregate_posterior(
    vae: LlaMaVAE,
    texts: Sequence[str],
    noise: float = 1.0,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """A point of each of N texts, drawn from its posterior, shape (N, D).

    Args:
        vae: The VAE.
        texts: N texts.
        noise: Width of the posteriors, as a multiple of their own; 0 gives their means.
        seed: Seed of the draws.
        progress: Show a progress bar on stderr.
    """
    if not noise >= 0:
        raise UserError(f"noise must not be negative; got {noise}")
    q = posterior(vae, texts, progress)
    rows = Rows(q.mean, noise=noise * q.stddev)
    return rows.draw(torch.Generator().manual_seed(seed))


def fit_prior(
    points: Tensor,
    kind: PriorKind = "mixture",
    *,
    valid: Tensor | None = None,
    components: int | Sequence[int] = COMPONENTS,
    flow: str | Flow = "glow",
    fitting: Fitting | None = None,
    seed: int = 0,
    vae: LlaMaVAE | None = None,
    progress: bool = False,
) -> Prior:
    """Fit a density to points of a VAE.

    Args:
        points: N points (N, D), such as those of `aggregate_posterior`.
        kind: `gaussian` (one, full covariance), `mixture` (of such Gaussians), or `flow`.
        valid: Held-out points (M, D), which choose among mixtures, stop the fit of a flow, and
            give the NLLs of the report; None takes a random tenth.
        components: Size of the mixture, or sizes that it is chosen from by its held-out NLL: they
            are tried from small to large until one is worse than the one before.
        flow: Architecture of the flow, or one that `build_flow` made.
        fitting: How the flow is trained; its seed is replaced.
        seed: Seed of the held-out tenth, of the starts of mixtures, and of the flow.
        vae: The VAE whose points they are. The prior then refuses to serve another.
        progress: Show a progress bar on stderr.

    Raises:
        UserError: A name is unknown, points have another size than the VAE's or are not finite,
            or there are too few.
    """
    if kind not in get_args(PriorKind):
        raise unknown("prior", kind, get_args(PriorKind))
    train, held_out = _divided(points, valid, seed, vae)
    features = train.shape[1]
    gaussian = _mixture(train, 1, seed)
    report: dict[str, Any] = {}
    if kind == "gaussian":
        prior: Prior = gaussian
    elif kind == "mixture":
        prior, tried = _best_mixture(train, held_out, components, seed)
        report["components"], report["tried"] = len(prior.weights), tried
    else:
        if isinstance(flow, str):
            with seeded(seed, torch.device("cpu")):
                flow = build_flow(flow, features)
        prior = FlowPrior(flow)
        fitting = replace(fitting or Fitting(), seed=seed)
        fit = fit_flow(flow, train, valid=Rows(held_out), fitting=fitting, progress=progress)
        report |= {"flow": flow.settings, "best_step": fit.best_step, "stopped": fit.stopped}
        report["inverse_error"] = fit.inverse_error
    prior.report = {
        "kind": kind,
        "nll": prior.nll(held_out),
        "references": {"standard": _standard_nll(held_out), "gaussian": gaussian.nll(held_out)},
        "points": len(train),
        "held_out": len(held_out),
        "seed": seed,
        **report,
    }
    prior.fingerprint = None if vae is None else latent_fingerprint(vae)
    return prior


def _divided(
    points: Tensor, valid: Tensor | None, seed: int, vae: LlaMaVAE | None
) -> tuple[Tensor, Tensor]:
    """Points to fit to and held-out ones, in float32 on the CPU."""
    features = points.shape[-1] if vae is None else vae.config.latent_dim
    train = Rows(points).checked("the points", features, 0).x.float()
    if valid is None:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        part = max(1, len(train) // 10)
        train, held_out = train[order[part:]], train[order[:part]]
    else:
        held_out = Rows(valid).checked("the held-out points", features, 0).x.float()
    if len(train) < 2 or not len(held_out):
        raise UserError(
            "a prior needs at least 2 points to fit to and 1 that is held out; got "
            f"{len(train)} and {len(held_out)}"
        )
    return train, held_out


def _best_mixture(
    train: Tensor, held_out: Tensor, components: int | Sequence[int], seed: int
) -> tuple[MixturePrior, dict[str, float]]:
    """The mixture of the lowest held-out NLL, and the NLL of each size that was tried."""
    sizes = sorted({components} if isinstance(components, int) else set(components))
    possible = [k for k in sizes if k <= len(train)]
    if not possible or sizes[0] < 1:
        raise UserError(
            f"a mixture has from 1 to as many components as there are points, {len(train)}; got "
            f"{', '.join(map(str, sizes)) or 'none'}"
        )
    best, tried = _mixture(train, possible[0], seed), {}
    tried[str(possible[0])] = lowest = best.nll(held_out)
    for k in possible[1:]:
        mixture = _mixture(train, k, seed)
        tried[str(k)] = nll = mixture.nll(held_out)
        if nll >= lowest:
            break
        best, lowest = mixture, nll
    return best, tried


def _mixture(train: Tensor, components: int, seed: int) -> MixturePrior:
    with warnings.catch_warnings():  # one that has not converged is judged like any other
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = GaussianMixture(components, random_state=seed).fit(train.double().numpy())
    covariances = torch.from_numpy(fit.covariances_)
    return MixturePrior(
        torch.from_numpy(fit.weights_).float(),
        torch.from_numpy(fit.means_).float(),
        torch.linalg.cholesky(covariances).float(),
    )


def _standard_nll(z: Tensor) -> float:
    return -torch.distributions.Normal(0.0, 1.0).log_prob(z).double().mean().item()
