"""Priors p(z): the densities from which latent codes are drawn to generate new sentences.

A VAE is trained towards N(0, I), but its decoder is trained on the aggregate posterior
q(z) = E_x q(z|x), and N(0, I) also covers regions without sentences. A density fitted to q(z) after
training is a better prior for sampling (ex-post density estimation, Ghosh et al., arXiv
1903.12436). `llamavae.training.fit_prior` fits one; a checkpoint can contain one as its default.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from llamavae.errors import (
    UserError,
    check_int,
    check_number,
    check_path,
    check_seed,
    check_types,
    memory_errors,
)
from llamavae.files import replacing_folder, write_json
from llamavae.latent.paths import as_codes
from llamavae.manifest import verify
from llamavae.modeling.backbones import latent_fingerprint
from llamavae.parsing import read_json
from llamavae.pretrained import bundled

if TYPE_CHECKING:
    from llamavae.flows import Flow
    from llamavae.modeling.base import SentenceVAE

FORMAT_VERSION = 1
DEFAULT = "prior"
"""Folder of the default prior in the folder of its checkpoint."""
OTHERS = "priors"
"""Folder of further priors in the folder of a checkpoint, with a subfolder for each kind."""
_SETTINGS, _WEIGHTS = "prior.json", "prior.safetensors"
_CHUNK = 1024  # number of codes per density computation

PriorKind = Literal["standard", "gaussian", "mixture", "flow"]


class Prior(ABC):
    """A density p(z) over latent codes z (D,).

    Its parameters are on the CPU in float32; `LlaMaVAE.decode` moves the codes to the model.

    Args:
        features: Size D.

    Attributes:
        features: Size D.
        report: Report of the fit, with held-out NLLs in nats per dimension, see `fit_prior`; empty
            if it was not fitted.
        fingerprint: Fingerprint of the VAE whose codes it was fitted to; None if unknown.

    Example:
        >>> prior = StandardPrior(2)
        >>> prior.sample(5, seed=1).shape, prior.log_prob(torch.zeros(3, 2)).shape
        (torch.Size([5, 2]), torch.Size([3]))
    """

    type: ClassVar[str]
    """Name of the class in saved files."""

    def __init__(self, features: int) -> None:
        self.features = features
        self.report: dict[str, Any] = {}
        self.fingerprint: str | None = None

    @property
    def kind(self) -> str:
        """Kind of density: `standard`, `gaussian`, `mixture` or `flow`."""
        return self.report.get("kind", self.type)

    @abstractmethod
    def distribution(self) -> Distribution:
        """As a torch distribution with event shape (D,)."""

    @abstractmethod
    def _draw(self, n: int, spread: float, generator: torch.Generator | None) -> Tensor: ...

    def sample(self, n: int = 1, spread: float = 1.0, seed: int | None = None) -> Tensor:
        """Draw `n` latent codes (n, D).

        Args:
            n: Number of codes, at least 1.
            spread: Factor on the standard deviation of the Gaussian noise of a draw: of N(0, I), of
                the selected component of a mixture, or of the base distribution of a flow. 1 draws
                from the prior itself, 0 returns the centres.
            seed: Makes the draws reproducible on any device; None uses torch's default generator,
                which `torch.manual_seed` controls.

        Raises:
            UserError: `n` is below 1, or `spread` is negative or not finite.
        """
        check_int("n", n)
        check_number("spread", spread)
        check_seed(seed)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        with torch.no_grad(), memory_errors(f"{n:,} latent codes", "Draw fewer at a time"):
            return self._draw(n, spread, generator)

    @torch.no_grad()
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of latent codes (B, D) in nats, shape (B,).

        Raises:
            UserError: The codes have another size, or are not finite.
        """
        z = as_codes(z, self.features).cpu().float()
        p = self.distribution()
        return torch.cat([p.log_prob(part) for part in z.split(_CHUNK)])

    def nll(self, z: Tensor) -> float:
        """Mean negative log-density of latent codes (B, D), in nats per dimension."""
        return -self.log_prob(z).double().mean().item() / self.features

    def check(self, vae: SentenceVAE) -> None:
        """Raise an error for a VAE that the prior was not fitted to.

        Raises:
            UserError: The latent size or the weights of the VAE differ.
        """
        size = vae.config.latent_dim
        if size != self.features:
            raise UserError(
                f"this prior has latent codes of size {self.features}; the VAE has D = {size}"
            )
        if not self.fits(vae):
            raise UserError(
                f"this prior was fitted for other weights than those of "
                f"{vae.name_or_path or 'this VAE'}. Fit a prior for this VAE with llamavae "
                "fit-prior, in the dtype in which it will be used"
            )

    def fits(self, vae: SentenceVAE) -> bool:
        """Whether the VAE has the weights that the prior was fitted for, as far as is known."""
        return vae.config.latent_dim == self.features and (
            self.fingerprint is None or self.fingerprint == latent_fingerprint(vae)
        )

    # ------------------------------------------------------------------ saving, loading

    @abstractmethod
    def _save(self, path: Path) -> None: ...

    @classmethod
    @abstractmethod
    def _load(cls, path: Path) -> Self: ...

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `prior.safetensors` and `prior.json`, replacing a prior in the folder.

        Args:
            folder: Created if missing.
        """
        settings = {
            "format_version": FORMAT_VERSION,
            "type": self.type,
            "vae_fingerprint": self.fingerprint,
            "report": self.report,
        }
        with replacing_folder(folder, own=()) as new:
            self._save(new / _WEIGHTS)
            write_json(new / _SETTINGS, settings)


class StandardPrior(Prior):
    """N(0, I), the prior that a VAE is trained towards.

    Args:
        features: Size D.
    """

    type = "standard"

    def distribution(self) -> Independent:
        """As a torch distribution with event shape (D,)."""
        return Independent(Normal(torch.zeros(self.features), torch.ones(self.features)), 1)

    def _draw(self, n: int, spread: float, generator: torch.Generator | None) -> Tensor:
        return spread * torch.randn(n, self.features, generator=generator)

    def _save(self, path: Path) -> None:
        save_file({"features": torch.tensor(self.features)}, path)

    @classmethod
    def _load(cls, path: Path) -> Self:
        return cls(int(load_file(path)["features"]))


class MixturePrior(Prior):
    """A mixture of Gaussians with full covariances; one component is a Gaussian.

    Args:
        weights: Probability of each component (K,).
        means: Their means (K, D).
        scale_tril: Cholesky factors of their covariances (K, D, D).
    """

    type = "mixture"

    def __init__(self, weights: Tensor, means: Tensor, scale_tril: Tensor) -> None:
        k, d = means.shape
        super().__init__(d)
        if weights.shape != (k,) or scale_tril.shape != (k, d, d):
            raise UserError(
                f"expected weights (K,), means (K, D) and Cholesky factors (K, D, D); got "
                f"{tuple(weights.shape)}, {tuple(means.shape)} and {tuple(scale_tril.shape)}"
            )
        self.weights, self.means, self.scale_tril = weights, means, scale_tril

    def distribution(self) -> MixtureSameFamily:
        """As a torch distribution with event shape (D,)."""
        components = MultivariateNormal(self.means, scale_tril=self.scale_tril)
        return MixtureSameFamily(Categorical(self.weights), components)

    def _draw(self, n: int, spread: float, generator: torch.Generator | None) -> Tensor:
        k = torch.multinomial(self.weights, n, True, generator=generator)
        noise = spread * torch.randn(n, self.features, generator=generator)
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

    type = "flow"

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow.features)
        if flow.context:
            raise UserError(f"expected a flow without a context; got one of size {flow.context}")
        self.flow = flow.eval()

    def distribution(self) -> Distribution:
        """As a torch distribution with event shape (D,)."""
        return self.flow()

    def _draw(self, n: int, spread: float, generator: torch.Generator | None) -> Tensor:
        p = self.flow()
        noise = spread * torch.randn(n, self.features, generator=generator)
        return p.transform.inv(p.base.mean + p.base.stddev * noise)

    def _save(self, path: Path) -> None:
        from llamavae.flows import save_flow

        save_flow(self.flow, path)

    @classmethod
    def _load(cls, path: Path) -> Self:
        from llamavae.flows import load_flow

        return cls(load_flow(path))


_TYPES: dict[str, type[Prior]] = {t.type: t for t in (StandardPrior, MixturePrior, FlowPrior)}
_NAMES = {"standard": ("standard",), "mixture": ("gaussian", "mixture"), "flow": ("flow",)}
_KINDS = {
    "format_version": int,
    "type": Literal["standard", "mixture", "flow"],
    "vae_fingerprint": str | None,
    "report": dict,
}


# ------------------------------------------------------------------------------- finding


def load_prior(source: str | os.PathLike[str], vae: SentenceVAE | None = None) -> Prior:
    """Load a prior that `Prior.save` wrote.

    Args:
        source: Its folder; or, with a VAE, `standard` for N(0, I), or the kind of a prior of the
            VAE: `gaussian`, `mixture` or `flow`.
        vae: The VAE that decodes its codes.

    Raises:
        UserError: The prior does not exist, is damaged, or was fitted for another VAE.
    """
    places = [check_path(source, "a prior, its kind or its folder")]
    name = os.fspath(source)
    if vae is not None and name in get_args(PriorKind) and not (places[0] / _SETTINGS).is_file():
        if name == "standard":
            return StandardPrior(vae.config.latent_dim)
        if vae.default_prior is not None and vae.default_prior.kind == name:
            return vae.default_prior
        places += [inside] if (inside := folder_of(vae, f"{OTHERS}/{name}")) else []
    folder = next((place for place in places if (place / _SETTINGS).is_file()), None)
    if folder is None:
        found = "" if vae is None else f", and the model has {', '.join(prior_names(vae))}"
        raise UserError(
            f"there is no prior {' or '.join(map(str, places))}{found}. To fit one: llamavae "
            "fit-prior"
        )
    prior = read_prior_folder(folder)
    if vae is not None:
        prior.check(vae)
    return prior


def read_prior_folder(folder: Path) -> Prior:
    """The prior that `Prior.save` wrote to `folder`.

    Raises:
        UserError: The prior is damaged.
    """
    verify(folder)
    path = folder / _SETTINGS
    try:
        settings = read_json(path, _KINDS)
        if settings["format_version"] > FORMAT_VERSION:
            raise UserError(
                f"{path} has format {settings['format_version']}; this version of llamavae reads "
                f"up to {FORMAT_VERSION}. Upgrade llamavae"
            )
        kind, report = _TYPES[settings["type"]], settings["report"]
        check_types(report, {"kind": Literal[_NAMES[settings["type"]]]}, str(path))
        fingerprint = settings["vae_fingerprint"]
        path = folder / _WEIGHTS
        prior = kind._load(path)
    except UserError:
        raise
    except (OSError, SafetensorError, RecursionError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged or missing: {error!r}. Copy the prior again; or delete its folder "
            "and fit it again with llamavae fit-prior"
        ) from error
    prior.report, prior.fingerprint = report, fingerprint
    return prior


def choose_prior(vae: SentenceVAE, prior: Prior | str | os.PathLike[str] | None = None) -> Prior:
    """The prior that a VAE draws from.

    Args:
        vae: The VAE.
        prior: None for its default prior, or N(0, I) if it has none; a `Prior`; or a source for
            `load_prior`.

    Raises:
        UserError: See `load_prior`.
    """
    if prior is None:
        return vae.default_prior or StandardPrior(vae.config.latent_dim)
    if not isinstance(prior, Prior | str | os.PathLike):
        raise UserError(f"expected a prior, its kind or its folder; got {prior!r:.40}")
    if not isinstance(prior, Prior):
        return load_prior(prior, vae)
    prior.check(vae)
    return prior


def prior_names(vae: SentenceVAE) -> list[str]:
    """Kinds of the priors that a VAE can draw from: its default first, then others, sorted."""
    folder = folder_of(vae, OTHERS)
    saved = [] if folder is None else [path.parent.name for path in folder.glob(f"*/{_SETTINGS}")]
    default = [] if vae.default_prior is None else [vae.default_prior.kind]
    kinds = {"standard", *(name for name in saved if name in get_args(PriorKind))}
    return list(dict.fromkeys([*default, *sorted(kinds)]))


def folder_of(vae: SentenceVAE, name: str) -> Path | None:
    """A folder inside that of a VAE; None for a VAE that was not loaded from a folder."""
    folder = bundled(vae.name_or_path or "") or vae.name_or_path
    return Path(folder, name) if folder and Path(folder).is_dir() else None
