"""The trtexec command that does what a build would do, for people and for scripts."""

from __future__ import annotations

from dataclasses import dataclass

from resnet_edge.backends.config import BuildConfig
from resnet_edge.backends.tensorrt.calibration_cache import cache_header
from resnet_edge.backends.trtexec.backend import TrtexecBackend
from resnet_edge.backends.trtexec.binary import find_trtexec
from resnet_edge.backends.trtexec.command import (
    build_arguments,
    build_request,
    graph_for,
    with_calibration,
)
from resnet_edge.backends.trtexec.known_options import known_flags
from resnet_edge.build.opset import relabelled_name
from resnet_edge.build.request import Request, check_request
from resnet_edge.build.stage import engine_name
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import CACHE, MODEL, graph_name
from resnet_edge.catalog.targets import Target
from resnet_edge.device.versions import parts
from resnet_edge.errors import BackendUnavailableError, ConfigError
from resnet_edge.graph.onnx_model import load_graph, tensor_specs
from resnet_edge.graph.relabel import opset_of
from resnet_edge.quantize.stage import base_name, float_layers

__all__ = ["Equivalent", "equivalent_command"]


@dataclass(frozen=True)
class Equivalent:
    """A command.

    Attributes:
        version: Of TensorRT; its trtexec understands the command.
        words: Program and arguments, not quoted.
        missing: Files it reads that the bundle does not have yet.
        notes: What must be done to its files first.
    """

    version: str
    words: tuple[str, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...] = ()


def equivalent_command(
    bundle: Bundle, target: Target, config: BuildConfig, version: str | None = None
) -> Equivalent:
    """Return the trtexec command for a build, without building or making anything.

    Args:
        bundle: Holds the model.
        target: The device.
        config: What to build.
        version: Of TensorRT; None for the installed trtexec's, else the newest of the target's.

    Raises:
        ConfigError: The target or this version cannot do it.
    """
    version, flags = _version(target, version)
    raw_pixels = bundle.model.image_spec.input == "uint8"
    check_request(target, Request(config, raw_pixels, version))
    backend = TrtexecBackend()
    backend.check_for(config, flags, version)
    if config.builds > 1:
        raise ConfigError(
            "--builds compares engines, which no single trtexec command does", hint="leave it out"
        )
    model = load_graph(bundle.artifact(MODEL))
    graph = graph_for(config, flags)
    name = graph_name(graph)
    if config.implicit is not None:
        name = base_name(bundle)
    name = relabelled_name(name, opset_of(model), target.opset_max(version))
    files = [name]
    engine = str(bundle.file(engine_name(backend, target, config)))
    inputs, _ = tensor_specs(model)
    request = build_request(str(bundle.file(name)), engine, inputs, target, config)
    notes: tuple[str, ...] = ()
    if config.implicit is not None:
        files.append(CACHE)
        notes = (
            f"TensorRT {version} takes {bundle.file(CACHE)} only with its own first line, "
            f"{cache_header(version)}",
        )
        request = with_calibration(
            request, str(bundle.file(CACHE)), float_layers(bundle), flags, version
        )
    return Equivalent(
        version,
        ("trtexec", *build_arguments(request, flags)),
        tuple(str(bundle.file(file)) for file in files if not bundle.file(file).is_file()),
        notes,
    )


def _version(target: Target, version: str | None) -> tuple[str, frozenset[str]]:
    """Return the version to write for and the options it has."""
    if target.backend not in ("tensorrt", "trtexec"):
        raise ConfigError(
            f"trtexec does not build for {target.name} ({target.backend})",
            hint="pass the target of a device with TensorRT, for example --target jetson-nano",
        )
    if version is None:
        try:
            found = find_trtexec()
        except BackendUnavailableError:
            if not target.software:
                raise
            version = target.software[-1].tensorrt[1]
        else:
            return found.version, found.flags
    version = _in_full(target, version)
    return version, known_flags(version)


def _in_full(target: Target, version: str) -> str:
    """Return the first version the target has of those meant: 10.3 may be its 10.3.0."""
    wanted = parts(version)
    for range_ in target.software:
        if parts(range_.tensorrt[0])[: len(wanted)] == wanted:
            return range_.tensorrt[0]
    return version
