"""Running checked calls of one bound module: which back end, which plan, which kernels; each made once, and cached.

What is made (plans, kernels) depends on dtype, head dimensions and kind of a call, never on the sizes N, M, B, H.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from attnc.call_kinds import may_list, may_use_states, needs_wide, starts_at_zero, variant_of
from attnc.call_tables import CallTables
from attnc.calls import refuse
from attnc.codegen.cache import key_of, load_entry, load_source, making, store_entry
from attnc.codegen.config import default_config
from attnc.codegen.context import Arg, KernelText, TritonModule, Variant
from attnc.codegen.cpp_build import CompilerError
from attnc.codegen.cpp_levels import NoCppError
from attnc.codegen.cpp_text import CppModule, CppStage, CppVariant
from attnc.codegen.interpreter import InterpretedModule
from attnc.codegen.launch import CallInputs, Launch, TileTables, run_module
from attnc.codegen.launch_cpp import TYPES, CppRunner, Prepared, Work
from attnc.cpp_work import Manner, few_rows, reads_data, sizes_that_tell, works_of
from attnc.diagnostics import warn_user
from attnc.ir.beside import tiles_beside
from attnc.ir.dependence import alignment_of, is_aligned, looks_up_positions
from attnc.ir.merge import splits
from attnc.ir.module import AttentionModule
from attnc.ir.plan import KernelPlan, PlanOptions, Tile
from attnc.ir.serialize import MalformedError, dumps, loads
from attnc.torch_backend import differentiate, run_torch
from attnc.torch_states import start_buffers
from attnc.torch_tokens import derived_tokens

if TYPE_CHECKING:
    from attnc.torch_tiles import PartTables

Backend = Literal["auto", "triton", "interpret", "cpp", "torch"]
#: Tiles of the torch back end: large, as each costs a few dozen torch calls.
_TORCH_TILE = Tile(256, 512)
#: Tiles of the interpreter: what a GPU would use for float32 costs seconds there.
_INTERPRET_TILE = Tile(32, 32)
#: Sizes of calls whose work is kept.
_KEPT_WORK = 64
#: Tiles of the C++ back end, which knows no others.
_CPP_TILE = Tile(64, 64)
_DEFAULT_TILES = {"torch": _TORCH_TILE, "interpret": _INTERPRET_TILE}
_KERNEL_CLASSES = (Arg, KernelText, TritonModule, Variant, CppModule, CppStage, CppVariant)

Outputs = tuple[Tensor, dict[str, Tensor]]
#: How to run calls like an earlier one.
Repeat = tuple[PlanOptions, Prepared]


@dataclass(slots=True)
class Executor:
    """Plans and kernels of a module on a back end. `key` names the module in the cache; "" keeps it out of there."""

    module: AttentionModule
    backend: Backend
    tile: Tile | None
    key: str
    _plans: dict[PlanOptions, KernelPlan] = field(default_factory=dict[PlanOptions, KernelPlan])
    _modules: dict[tuple[PlanOptions, Variant], TritonModule] = field(
        default_factory=dict[tuple[PlanOptions, Variant], TritonModule]
    )
    _runners: dict[tuple[str, PlanOptions, Variant], Any] = field(
        default_factory=dict[tuple[str, PlanOptions, Variant], Any]
    )
    _without_cpp: bool = False
    _ran: str = ""
    _data: dict[PlanOptions, bool] = field(default_factory=dict[PlanOptions, bool])
    _work: dict[object, tuple[Work, ...]] = field(default_factory=dict[object, "tuple[Work, ...]"])
    _cpp: dict[tuple[PlanOptions, CppVariant], CppRunner] = field(
        default_factory=dict[tuple[PlanOptions, CppVariant], CppRunner]
    )
    #: Makes other plans than the module's forward: those of its backward.
    maker: Callable[[PlanOptions], KernelPlan] | None = None
    _tables: CallTables = field(default_factory=CallTables)
    #: The work of the last call in C++ that was not like an earlier one.
    worked: tuple[Work, ...] = ()
    #: What the last call ran: before any, 16-bit inputs with head dimension 64 on a GPU.
    planned: PlanOptions = PlanOptions(64, 64)
    emitted: tuple[PlanOptions, Variant] = (PlanOptions(64, 64), Variant())

    def __post_init__(self) -> None:
        self.planned = replace(self.planned, tile=self.tile, aligned=alignment_of(self.module))
        self.emitted = (self.planned, Variant())

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self, call: CallInputs, keep: Callable[[Repeat], None] | None = None) -> Outputs:
        """The output [B, H, N, Dv] in the dtype of q, and the statistics [B, H, N] when the call asks for them.

        `keep` is given how to run calls like this one, if sizes and layouts tell all about them.
        """
        backend = self.able(self.choose(call.q.device.type), call)
        if backend == "interpret" and call.q.dtype == torch.bfloat16:
            return self._upcast(call)
        if backend != "torch" and call.q.dtype == torch.float64:
            refuse(f'q: float64 runs on backend="torch" only, not on "{backend}"')
        options, tables = self._prepare(call, backend)
        self.planned = options
        if backend == "torch":
            return run_torch(self.plan(options), call, tables)
        if backend == "cpp":
            return self._run_cpp(options, call, tables, keep)
        variant = variant_of(call)
        self.emitted, self._ran = (options, variant), ""
        module = self.kernels(options, variant)
        on_device = self._on_device(options, call, tables)
        return run_module(module, call, self._runner(backend, options, variant), on_device, start_buffers)

    def able(self, backend: str, call: CallInputs) -> str:
        """The back end; "torch" instead of a C++ one that was not asked for by name and cannot run the call."""
        if backend != "cpp" or self.backend == "cpp":
            return backend
        if call.q.dtype == torch.float64:
            return "torch"
        try:
            options = self.options(call, "cpp")
            self._cpp_runner(options, self._cpp_variant(options, call))
        except (NoCppError, CompilerError) as error:
            if not self._without_cpp:
                self._without_cpp = True
                warn_user(f"{self.module.name} runs on torch, which is slow, as C++ cannot: {error}")
            return "torch"
        return backend

    def _run_cpp(
        self,
        options: PlanOptions,
        call: CallInputs,
        tables: tuple[PartTables, ...],
        keep: Callable[[Repeat], None] | None,
    ) -> Outputs:
        """On the C++ back end; token maps by torch."""
        plan = self.plan(options)
        runner = self._cpp_runner(options, self._cpp_variant(options, call))
        self._ran = runner.module.source
        module = runner.module
        manner = Manner(
            module.query_heads,
            splits(plan),
            module.variant.few > 0,
            torch.get_num_threads(),
            columns=bool(plan.columns),
            tables=bool(plan.scatters),
        )
        works = self.worked = self._works(options, call, tables, manner)
        derived = derived_tokens(plan, call, torch.float32)
        prepared = runner.prepare(call, derived, works)
        tells_all = not derived and plan.states is None and not self._data[options]
        if keep is not None and tells_all and sizes_that_tell(call) is not None:
            keep((options, prepared))
        begun: dict[str, Tensor] = {}
        if plan.states is not None:
            begun = start_buffers(plan, call, derived, works[0].rows, torch.float32)
        return prepared.run({"q": call.q, "k": call.k, "v": call.v, **call.tensors, **derived}, begun)

    def repeat(self, found: Repeat, tensors: Mapping[str, Tensor]) -> Outputs:
        """Run a call like an earlier one, whose `prepared` was kept."""
        self.planned, self._ran = found[0], found[1].module.source
        return found[1].run(tensors)

    def _works(
        self, options: PlanOptions, call: CallInputs, tables: tuple[PartTables, ...], manner: Manner
    ) -> tuple[Work, ...]:
        """The work of a call's parts; kept for calls of the same sizes where these tell all."""
        plan = self.plan(options)
        if options not in self._data:
            self._data[options] = reads_data(plan)
        sizes = None if self._data[options] else sizes_that_tell(call)
        if sizes is None:
            return works_of(plan, call, tables, manner)
        key = (options, manner, sizes)
        if key not in self._work:
            if len(self._work) >= _KEPT_WORK:
                self._work.clear()
            self._work[key] = works_of(plan, call, tables, manner)
        return self._work[key]

    def _cpp_runner(self, options: PlanOptions, variant: CppVariant) -> CppRunner:
        key = (options, variant)
        if key not in self._cpp:
            plan = self.plan(options)
            module = self.cached("cpp", options, variant, lambda: _lower_cpp(plan, variant))
            self._cpp[key] = CppRunner(module)
        return self._cpp[key]

    def _cpp_variant(self, options: PlanOptions, call: CallInputs) -> CppVariant:
        """What a call changes in the text of its C++."""
        given = {"q": call.q, "k": call.k, "v": call.v, **call.tensors}
        types = tuple((name, TYPES[tensor.dtype]) for name, tensor in given.items())
        few = few_rows(self.plan(options), call)
        return CppVariant(types, call.cu_q is not None, needs_wide(call), call.return_aux, few)

    def differentiate(
        self, call: CallInputs, gradients: tuple[Tensor, Mapping[str, Tensor]], wanted: frozenset[str]
    ) -> dict[str, Tensor]:
        """Gradients of q, k, v and real tensors by name, from those of the output and of the statistics."""
        options, tables = self._prepare(call, "torch")
        return differentiate(self.plan(options), call, gradients, wanted, tables)

    def choose(self, device: str) -> str:
        """The back end for tensors on a device. Raises CallError when the one that was asked for cannot run there."""
        if self.backend == "auto":
            return {"cuda": "triton", "cpu": "cpp"}.get(device, "torch")
        if self.backend == "triton" and device != "cuda":
            refuse(f'backend "triton" needs tensors on a GPU, got {device}; use "interpret" or "torch" there')
        if self.backend in ("interpret", "cpp") and device != "cpu":
            refuse(f'backend "{self.backend}" needs CPU tensors, got {device}')
        return self.backend

    def _upcast(self, call: CallInputs) -> Outputs:
        """bfloat16 in the interpreter, which computes on its bits: run in float32 and say so."""
        message = "Triton's interpreter cannot compute in bfloat16: this call runs in float32 and rounds at the end"
        warn_user(message)
        wide = replace(
            call,
            q=call.q.float(),
            k=call.k.float(),
            v=call.v.float(),
            tensors={n: t.float() if t.dtype == torch.bfloat16 else t for n, t in call.tensors.items()},
        )
        out, aux = self.run(wide)
        return out.to(torch.bfloat16), aux

    def options(self, call: CallInputs, backend: str) -> PlanOptions:
        """What the plan of a call is made for."""
        tile = _CPP_TILE if backend == "cpp" else self.tile or _DEFAULT_TILES.get(backend)
        aligned = starts_at_zero(call) and is_aligned(self.module, call.q.shape[2], call.k.shape[2])
        long_enough = may_list(call)
        listed = looks_up_positions(self.module.mask) and long_enough
        sizes = (call.q.shape[-1], call.v.shape[-1], call.q.element_size())
        options = PlanOptions(*sizes, tile, aligned, listed, training=call.training)
        options = self.numbered(options) if long_enough else options
        return replace(options, states=True) if may_use_states(call) and not self.plan(options).no_states else options

    def numbered(self, options: PlanOptions) -> PlanOptions:
        """For calls whose numbers are known: where closed forms are more than the live tiles, tiles are listed."""
        covers = any(part.covers for part in self.plan(options).parts)
        return replace(options, numbered=True) if covers else options

    # -- tiles that a call tells ---------------------------------------------------------------------------------------

    def _prepare(self, call: CallInputs, backend: str) -> tuple[PlanOptions, tuple[PartTables, ...]]:
        """What to plan for a call, and per part of the plan the tables that its tiles need."""
        options = self.options(call, backend)
        found = [self._part_tables(options, number, call) for number in range(len(self.plan(options).parts))]
        if None not in found:
            return options, tuple(tables for tables in found if tables is not None)
        # What would take too long is left: tiles are ranges of positions, those that closed forms tell.
        options = replace(options, listed=False, numbered=False, aligned=False)
        return options, tuple(self._part_tables(options, n, call) or () for n in range(len(self.plan(options).parts)))

    def _part_tables(self, options: PlanOptions, number: int, call: CallInputs) -> PartTables | None:
        return self._tables.of_part(self.plan(options), number, call, options)

    def _on_device(self, options: PlanOptions, call: CallInputs, found: tuple[PartTables, ...]) -> TileTables | None:
        """Tables as the kernels read them."""
        if not any(found):
            return None
        packed = tuple(tuple(torch.as_tensor(t.packed()).to(call.q.device) for t in tables) for tables in found)
        parts = self.plan(options).parts
        boxes = (
            prod(t.units for t in tables) + tiles_beside(part, call.q.shape[2]) if part.axes else None
            for part, tables in zip(parts, found, strict=True)
        )
        return TileTables(packed, tuple(boxes))

    # -- what is made ------------------------------------------------------------------------------------------------

    def plan(self, options: PlanOptions) -> KernelPlan:
        """The plan for head dimensions and an element size. Raises SpecError for what has no kernel."""
        if options not in self._plans:
            self._plans[options] = self.cached("plan", options, (), lambda: self._make_plan(options))
        return self._plans[options]

    def kernels(self, options: PlanOptions, variant: Variant) -> TritonModule:
        """The emitted module for a kind of call."""
        key = (options, variant)
        if key not in self._modules:
            self._modules[key] = self.cached("kernels", options, variant, lambda: self._lower(options, variant))
        return self._modules[key]

    def source(self) -> str:
        """The text of the last call that ran emitted code; before any, of Triton kernels."""
        return self._ran or self.kernels(*self.emitted).source

    def _make_plan(self, options: PlanOptions) -> KernelPlan:
        from attnc.passes.pipeline import make_plan

        return self.maker(options) if self.maker is not None else make_plan(self.module, options)

    def _lower(self, options: PlanOptions, variant: Variant) -> TritonModule:
        from attnc.codegen.triton_module import lower_triton

        return lower_triton(self.plan(options), variant).launchable()

    def cached(self, kind: str, options: PlanOptions, variant: object, make: Any) -> Any:
        """From the cache, else made by one process and stored."""
        if not self.key:
            return make()
        choices = dumps((options, variant), classes=(*_KERNEL_CLASSES, PlanOptions))
        key = key_of(kind, self.key, choices)
        found = _load(kind, key)
        if found is not None:
            return found
        with making(key):
            found = _load(kind, key)
            if found is None:
                found = make()
                store_entry(kind, key, dumps(found, classes=_KERNEL_CLASSES))
            return found

    def _runner(self, backend: str, options: PlanOptions, variant: Variant) -> Any:
        key = (backend, options, variant)
        if key not in self._runners:
            self._runners[key] = _loaded(self.kernels(options, variant), backend)
        return self._runners[key].run

    def forget(self) -> None:
        """Drop what is in memory; the cache on disk stays."""
        self._plans.clear()
        self._modules.clear()
        self._runners.clear()

    def description(self) -> str:
        """What the results depend on, as text: for names made of content."""
        tile = None if self.tile is None else asdict(self.tile)
        return json.dumps([dumps(self.module, spans=False), self.backend, tile])


def _lower_cpp(plan: KernelPlan, variant: CppVariant) -> CppModule:
    from attnc.codegen.cpp_kernel import lower_cpp  # templates are loaded where nothing is cached

    return lower_cpp(plan, variant)


def _load(kind: str, key: str) -> Any:
    body = load_entry(kind, key)
    if body is None:
        return None
    try:
        return loads(body, classes=_KERNEL_CLASSES)
    except MalformedError:
        return None


def _loaded(module: TritonModule, backend: str) -> Any:
    emitted = load_source(module.source)
    if backend == "interpret":
        return InterpretedModule(emitted, tuple(kernel.name for kernel in module.kernels))
    return _DeviceModule(emitted, module)


class _DeviceModule:
    """Kernels run by Triton's driver on a GPU."""

    def __init__(self, emitted: Any, module: TritonModule) -> None:
        self._emitted = emitted
        self._config = default_config(module.plan)

    def run(self, launch: Launch) -> None:
        """Run one launch on the current device."""
        kernel = getattr(self._emitted, launch.kernel.name)
        kernel[(launch.programs,)](**launch.arguments, num_warps=self._config.warps, num_stages=self._config.stages)
