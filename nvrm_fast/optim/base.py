"""What every noisy optimizer shares: arguments, streams, state and one operator call for all parameters of a group."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from ..contract import record
from ..contract.distributions import NOISE_CONTRACT, distribution_code
from ..contract.rules import Rule
from ..contract.seeds import default_seed, signed_seed
from ..contract.streams import assign_streams
from ..ops.by_way_of_cpu import to_cpu
from ..ops.native import are_plain
from ..ops.registry import check_backend
from ..ops.step import serves_at_once, step_, steps_
from . import amp, backward, capture, carried, checkpoint, compiled, measures, outer, parameter_state, written
from .batches import MASTER, MEASURE, PERTURBATION, STEP, ParamRef, Part, Plan, StalePlan
from .checks import check_flag, check_number, check_overlap, check_pair, check_param, check_step_of
from .description import Description, ParameterDescription, describe_param
from .shards import local_gradient, local_tensor, place_of
from .step_arguments import arguments_of, has_started, option_of

LOW_PRECISION = (torch.bfloat16, torch.float16)
#: So many plans are kept: one for each set of parameters that had gradients together.
MOST_PLANS = 4096


#: How many optimizers of these classes were made in this process: what a seed that is left out depends on.
_made = itertools.count()


class ParameterName:
    """How messages call a parameter; worked out when somebody reads it."""

    def __init__(self, optimizer: Optimizer, group: dict[str, Any], i: int) -> None:
        self._where = optimizer, group, i

    def __str__(self) -> str:
        optimizer, group, i = self._where
        names = group.get("param_names")
        if names is not None:
            return repr(names[i])
        earlier = itertools.takewhile(lambda other: other is not group, optimizer.param_groups)
        return f"{sum(len(other['params']) for other in earlier) + i} (pass named_parameters() to see its name)"


class NoisyOptimizer(Optimizer):
    """Base class; subclasses bring a rule (`rules.py`) and say what noise is drawn and whether it stays.

    Parameters may have any strides; gradients must be dense. `seed`, `noise` and the other noise arguments are options
    of a parameter group and may be changed between steps.

    A parameter's state holds torch's tensors for the rule, `step` (int64), `master_param` (the clean weights, where
    there are any) and `perturbation`, the record of its noise: see nvrm_fast/contract/record.py.
    """

    #: The noise stays in the weights for good: there is none to take off.
    keep_noise = False

    #: With it torch.amp.GradScaler leaves `grad_scale` and `found_inf` here; the kernels divide by the one and heed the
    #: other. Only with fused=True, as in torch.optim: whoever clips gradients or asks whether a step was skipped counts
    #: on a scaler that does both itself.
    _step_supports_amp_scaling = False

    # What compiled.py notes.
    _number: int
    _params: list[Tensor]
    _has_shards: bool

    #: Its groups are still being added, by the constructor: what concerns all of them is done once, after the last.
    _is_being_made = False

    #: The hooks of step_in_backward(), while there are any.
    _in_backward: Any = None

    def __init__(self, params: ParamsT, defaults: dict[str, Any], fused: bool | None = None) -> None:
        outer.refuse_partition(outer.find_caller())
        self._is_being_made = True
        super().__init__(params, defaults)
        del self._is_being_made
        self._check_overlap()
        self._choose_seed()
        self._step_supports_amp_scaling = bool(fused)
        self._set_up()

    # What a subclass decides.

    def _rule(self, group: dict[str, Any]) -> Rule:
        """The update rule of a group."""
        raise NotImplementedError

    def _noise_scale(self, group: dict[str, Any]) -> float | Tensor:
        """b of the noise of this step; a tensor where it is made of tensors that the host does not read."""
        raise NotImplementedError

    def _seed(self, group: dict[str, Any]) -> int:
        """The key of the draws of this step."""
        return group["seed"]

    def _is_selected(self, group: dict[str, Any], i: int) -> bool:
        """Whether the group's i-th parameter carries noise."""
        return True

    def _is_served(self, group: dict[str, Any], i: int) -> bool:
        """Whether kernels are called for the group's i-th parameter: others may be of any kind."""
        return True

    def _wants_master(self, group: dict[str, Any], param: Tensor) -> bool:
        wish = group["master_weights"]
        return param.dtype in LOW_PRECISION if wish is None else wish

    def _check_mode(self) -> None:
        """Raises RuntimeError where no step may be done."""

    def _take_noise_off(self, group: dict[str, Any], refs: list[ParamRef]) -> None:
        """Leaves these parameters clean."""

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raises ValueError for hyper-parameters out of range. Rules extend it."""
        distribution_code(group["noise"], "noise")
        if not (self._is_being_made and group["seed"] is None):
            signed_seed(group["seed"])
        if group["master_weights"] is not None and not isinstance(group["master_weights"], bool):
            raise ValueError(f"master_weights must be None, True or False, got {group['master_weights']!r}")
        if group["backend"] is not None:
            check_backend(group["backend"])
        check_flag(group.get("capturable", False), "capturable")
        for hyper in self._rule(group).hyper:
            if hyper.item == 0:
                check_pair(group[hyper.option], hyper.option)
            if hyper.is_flag:
                check_flag(option_of(group, hyper), hyper.name)
            else:
                check_number(option_of(group, hyper), hyper.title or hyper.name, low=hyper.low, high=hyper.high)

    # Groups.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch.optim's; also checks parameters and hyper-parameters."""
        super().add_param_group(param_group)
        self._accept_last_group()

    def _accept_last_group(self) -> None:
        """Checks the group that was just added, and takes it out again if something is wrong with it."""
        group = self.param_groups[-1]
        if group["seed"] is None:
            group["seed"] = self.defaults["seed"]
        try:
            self._check_group(group)
            for i, (name, param) in enumerate(self._named(group)):
                if not self._is_served(group, i):
                    continue
                check_param(param, name)
                try:
                    place_of(param)
                except ValueError as error:
                    raise ValueError(f"parameter {name}: {error}") from None
            if not self._is_being_made:
                self._check_overlap()
        except Exception:
            self.param_groups.pop()
            raise
        group["checkpoint_version"] = checkpoint.VERSION
        group["noise_contract"] = NOISE_CONTRACT
        if not self._is_being_made:
            self._set_up()
            if self._in_backward is not None:
                self._in_backward.add(group)

    def _choose_seed(self) -> None:
        """The seed of the groups that were given none. Every optimizer counts, so that one without a seed differs from
        all before it; copies and loaded states keep the seed that they have."""
        seed = default_seed(next(_made))
        if self.defaults["seed"] is None:
            self.defaults["seed"] = seed
        for group in self.param_groups:
            if group["seed"] is None:
                group["seed"] = self.defaults["seed"]

    def _check_overlap(self) -> None:
        check_overlap(itertools.chain.from_iterable(self._named(group) for group in self.param_groups))

    def _named(self, group: dict[str, Any]) -> Iterator[tuple[ParameterName, Tensor]]:
        return ((ParameterName(self, group, i), param) for i, param in enumerate(group["params"]))

    def _set_up(self) -> None:
        """What belongs to this process and is neither copied nor pickled: caches, every one of them."""
        self._plans: dict[tuple[int, tuple[int, ...] | None], Plan] = {}
        self._streams: dict[Tensor, int] = {}
        compiled.register(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also called by load_state_dict, copy and pickle."""
        shared: Any = getattr(self, "state", None), getattr(self, "param_groups", None)
        super().__setstate__(state)
        if "_loading" in vars(self) and shared[0] is not None and shared[1] is not None:
            # Into the objects that were there: wrappers (Lightning's) hand them on, and must see what is loaded.
            loaded = dict(self.state), list(self.param_groups)
            self.state, self.param_groups = shared
            self.state.clear()
            self.state.update(loaded[0])
            self.param_groups[:] = loaded[1]
        vars(self).setdefault("_step_supports_amp_scaling", False)
        self._set_up()
        checkpoint.complete(self, vars(self).pop("_loading", None))

    # One step.

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of the base rule on the clean weights, and fresh noise.

        closure: reevaluates the model and returns the loss. Returns the loss, or None.
        Raises RuntimeError for sparse gradients, TypeError for unsupported dtypes and ValueError for hyper-parameters
        out of range or state of another shape, before anything is written.

        A first step with learning rates and gradients of 0 makes the state and writes no weights: so
        torch.distributed.checkpoint prepares an optimizer for loading.
        """
        is_compiling = torch.compiler.is_compiling()
        loss = None
        if closure is not None:
            if not is_compiling:  # the compiler would guard every entry of the state; the operator in its graph checks
                self._check_mode()  # before the closure runs; _step asks again
            with torch.enable_grad():
                loss = closure()
        if is_compiling:
            compiled.step(self)
        else:
            self._step_now()
        return loss

    @torch.no_grad()
    def _step_now(self) -> None:
        parts = [part for group in self.param_groups if (part := Part.of_group(group)).params]
        if not self.state and checkpoint.is_state_initialization(self, parts):
            for part in parts:
                self._make_plan(part)
        else:
            self._step(parts, *amp.scaling_of(self))

    def step_in_backward(self) -> backward.Handles:
        """From now on every parameter is stepped in the backward pass, as soon as its gradient is there, and the
        gradient is freed: no two layers' gradients need memory at once.

        Use it without gradient accumulation, clipping over all parameters, GradScaler and step() (which then finds no
        gradients and does nothing). The noise and the weights are those that step() would have given.

        Returns a handle; handle.remove() ends it.
        """
        return backward.step_in_backward(self)

    def _step(self, parts: list[Part], grad_scale: Tensor | None = None, found_inf: Tensor | None = None) -> None:
        """All checks, then one operator call a batch, or one for all of them."""
        self._check_mode()
        for group in self.param_groups:
            self._check_group(group)
        if capture.is_capturing():
            self._check_capture(parts)
        plans = [self._find_plan(part) for part in parts]
        at_once = self._is_done_at_once(parts, plans, grad_scale, found_inf)
        # A single call is checked by its operator. Of several, none may be refused after another has written.
        is_one_call = at_once or (len(parts) == 1 and plans[0] is not None and len(plans[0].batches) == 1)
        if not is_one_call:
            for i, (part, plan) in enumerate(zip(parts, plans)):
                if plan is None or not plan.will_be_accepted(part):
                    self._check_part(part)
                    plans[i] = plan if plan is not None and plan.has_state() else None
        if amp.is_skipped_here(found_inf):
            return
        ready = [plan or self._make_plan(part) for part, plan in zip(parts, plans)]
        try:
            self._apply(parts, ready, grad_scale, found_inf, at_once)
        except (StalePlan, RuntimeError, TypeError, ValueError, KeyError) as error:
            if not is_one_call:
                raise
            for part in parts:
                self._check_part(part)
            states = [(part.group, param, self.state[param]) for part in parts for param in part.params]
            if not isinstance(error, StalePlan) and all(parameter_state.is_ready(self, *each) for each in states):
                raise
            # Somebody has put state in. Nothing is written yet: the operator was not called, or refused it.
            self._apply(parts, [self._make_plan(part) for part in parts], grad_scale, found_inf, at_once=False)

    def _is_done_at_once(
        self, parts: list[Part], plans: list[Plan | None], grad_scale: Tensor | None, found_inf: Tensor | None
    ) -> bool:
        """Whether native code does the whole step in one call, and checks everything before it writes anything."""
        new = [x for x in (grad_scale, found_inf) if x is not None]
        for part in parts:
            new += part.grads
            new += part.data or ()
        return (
            bool(plans)
            and all(plan is not None and plan.is_plain for plan in plans)
            and are_plain(new)
            and serves_at_once(
                (device, part.group["backend"])
                for part, plan in zip(parts, plans)
                for device in plan.batch_devices  # type: ignore[union-attr]  # none of them is None
            )
        )

    def _check_capture(self, parts: list[Part]) -> None:
        positions = {id(group): i for i, group in enumerate(self.param_groups)}
        capture.check_step(
            ((positions[id(part.group)], part.group, list(part.params)) for part in parts),
            lambda group, param: parameter_state.is_ready(self, group, param, self.state.get(param, {})),
            self._name_of,
        )

    def _name_of(self, group: dict[str, Any], param: Tensor) -> ParameterName:
        return ParameterName(self, group, next(i for i, other in enumerate(group["params"]) if other is param))

    def _apply(
        self, parts: list[Part], plans: list[Plan], grad_scale: Tensor | None, found_inf: Tensor | None, at_once: bool
    ) -> None:
        calls = [
            (arguments_of(self, part, plan, k, grad_scale, found_inf), part.group["backend"])
            for part, plan in zip(parts, plans)
            for k in range(len(plan.batches))
        ]
        for part, plan in zip(parts, plans):
            if plan.has_masters and self._may_be_written(part, plan):
                self._take_writes_over(part.group, plan.refs, plan.data(part))
            if plan.has_measures:
                scale, may_be_clean = self._noise_scale(part.group), self._may_be_clean(part.group, plan)
                skipped = found_inf is not None
                measures.refresh(part, plan, scale, may_be_clean=may_be_clean, may_be_skipped=skipped)
        places: list[Any]
        try:
            if at_once:
                places = list(steps_([arguments for arguments, _ in calls]))
            else:
                for arguments, backend in calls:
                    step_(arguments, backend=backend)
                places = [[param.data_ptr() for param in arguments.params] for arguments, _ in calls]
        except BaseException:
            for plan in plans:  # a signal may have come after the operator
                _note_carried(plan)
            raise
        self._note_places(parts, plans, places)
        for plan in plans:
            if plan.has_shards:  # the kernels have told the local tensors' versions only
                torch.autograd.graph.increment_version(plan.params)
        for part, plan in zip(parts, plans):
            if plan.has_measures:
                measures.note(part, plan)
            if plan.has_masters:
                plan.mark = None if self._may_be_clean(part.group, plan) else written.mark(part.params, plan.data(part))

    def _note_places(self, parts: list[Part], plans: list[Plan], places: list[Any]) -> None:
        """A parameter may have got other memory since (`p.data = x`), and that carries its noise now."""
        first = 0
        for part, plan in zip(parts, plans):
            own = places[first : first + len(plan.batches)]
            first += len(plan.batches)
            if part.data is None and plan.places != own:
                if plan.places is not None:
                    _note_carried(plan)
                plan.places = own

    def _may_be_clean(self, group: dict[str, Any], plan: Plan) -> bool:
        """Whether the last step may have left weights without noise. The host does not ask the records."""
        scale = self._noise_scale(group)
        return (
            self.keep_noise
            or isinstance(scale, Tensor)
            or scale == 0
            or bool(group.get("denoise_every"))
            # One more: these are the steps after the last one.
            or not all(has_started(lists.steps, group.get("start_step", 0) + 1) for lists in plan.lists)
            or not all(batch.is_selected for batch in plan.batches)
        )

    def _may_be_written(self, part: Part, plan: Plan) -> bool:
        """Whether somebody may have written parameters since the last step, so that their values are to be compared.

        A hint from versions and addresses where noise is on: a write that raises none is not seen then. Values are
        always compared where no noise may be on, and where other processes write (shared memory).
        """
        if plan.mark is None or plan.is_shared:
            return True
        return part.data is None and plan.mark != written.mark(part.params, plan.data(part))

    def _take_writes_over(self, group: dict[str, Any], refs: list[ParamRef], data: list[Tensor]) -> None:
        """Where there are masters: what anybody wrote into these parameters is part of their clean weights."""
        for ref, own in zip(refs, data):
            state = self.state[ref.param]
            if MASTER in state and PERTURBATION in state:
                parameter_state.widen_master(ref.param, state)
                written.take_over(own, local_tensor(state[MASTER]), state, ref, group["backend"])

    @torch.no_grad()
    def describe(self) -> Description:
        """What this optimizer does to the model at hand: print it for a table with a line for each parameter.

        It has shape, dtype, storage, b and type of the noise, its standard deviation over the root mean square of the
        clean weights, and, called between backward() and zero_grad(), the share of updates that rounding loses because
        they are less than half a spacing of weight plus noise. Where that is a tenth or more it advises master weights.

        Returns a Description (`rows`, `wants_masters`). Nothing is changed. It makes copies of one parameter at a time
        and waits for the device. Of a distributed parameter it describes this process's part.
        """
        rows: list[ParameterDescription] = []
        for group in self.param_groups:
            hyper = [float(option_of(group, each)) for each in self._rule(group).hyper]
            for i, param in enumerate(group["params"]):
                if torch.nn.parameter.is_lazy(param):
                    continue
                ref = self._ref(group, i)
                state = dict(self.state.get(param, {}))
                if PERTURBATION not in state:
                    state[PERTURBATION] = parameter_state.new_record(ref, set(), int(state.get(STEP, 0)))
                data = local_tensor(param)
                if MASTER in state:
                    clean = local_tensor(state[MASTER])
                else:
                    known = state.get(MEASURE)
                    clean = carried.without_noise(data, state[PERTURBATION], known, ref, group["backend"])
                clean = to_cpu(clean).double()
                grad = None if param.grad is None else local_gradient(param, param.grad, ref.name)
                done = int(state[STEP] if STEP in state else state[PERTURBATION][record.RULE_STEPS])
                carries = ref.is_selected and done >= group.get("start_step", 0)
                b = float(self._noise_scale(group)) if carries else 0.0
                if b and measures.code_of(group):
                    b *= float(measures.measures_of(clean, group).double().square().mean().sqrt())
                states = {key: local_tensor(x) if isinstance(x, Tensor) else x for key, x in state.items()}
                rows.append(
                    describe_param(
                        group["param_names"][i] if "param_names" in group else str(len(rows)), param, data,
                        clean, group, states, rule=self._rule(group), hyper=hyper,
                        b=b, wants_master=self._wants_master(group, param), grad=grad,
                    )
                )  # fmt: skip
        return Description(tuple(rows))

    # Plans.

    def _options(self, group: dict[str, Any]) -> tuple[Any, ...]:
        """What of a group a plan depends on."""
        own = group.get("decorrelate_ranks"), group.get("relative"), group.get("per")
        return self._rule(group), group["master_weights"], *own

    def _find_plan(self, part: Part) -> Plan | None:
        plan = self._plans.get((id(part.group), part.positions))
        return plan if plan is not None and plan.is_valid(part, self.state, self._options(part.group)) else None

    def _ref(self, group: dict[str, Any], i: int) -> ParamRef:
        param = group["params"][i]
        name = ParameterName(self, group, i)
        return ParamRef(param, place_of(param), name, self._stream(param), self._is_selected(group, i))

    def _refs(self, part: Part) -> list[ParamRef]:
        positions: Iterable[int] = range(len(part.params)) if part.positions is None else part.positions
        return [self._ref(part.group, i) for i in positions]

    def _check_part(self, part: Part) -> None:
        data = part.data or [local_tensor(param) for param in part.params]
        rule = self._rule(part.group)
        for ref, own, grad in zip(self._refs(part), data, part.grads):
            check_step_of(ref, own, grad, self.state.get(ref.param, {}), rule)

    def _make_plan(self, part: Part) -> Plan:
        """Completes the state of the part's parameters and batches them. Everything is checked."""
        refs, group = self._refs(part), part.group
        new = [ref for ref in refs if PERTURBATION not in self.state.get(ref.param, {})]
        self._take_known_noise_off(group, new)
        taken = parameter_state.taken_streams(self.state.values()) if new else set()
        states = [parameter_state.complete(self, group, ref, taken) for ref in refs]
        plan = Plan(refs, self._rule(group), self._options(group), list(part.params), states)
        if len(self._plans) >= MOST_PLANS:
            self._plans.clear()
        self._plans[id(group), part.positions] = plan
        _note_carried(plan)
        return plan

    def _take_known_noise_off(self, group: dict[str, Any], refs: list[ParamRef]) -> None:
        """Leaves parameters clean that carry noise of which this optimizer's state does not tell: it was deleted or
        replaced, or another optimizer put the noise on. Warns. Weights that were put in since are left alone."""
        found = [] if capture.is_capturing() else [(ref, carried.find(ref.param)) for ref in refs]
        amounts = [(ref, known, *carried.amount(known, ref, group["backend"])) for ref, known in found if known]
        told = [carried.tells(ref.param.numel(), deviation) for ref, _, _, deviation in amounts]
        # Small parameters, and such as are large beside their noise, do not tell: they go by the others.
        others = carried.were_all_put_in([each[2:] for each, tells in zip(amounts, told) if tells])
        for (ref, known, amount, _), tells in zip(amounts, told):
            if amount < carried.PUT_IN if tells else others:
                carried.forget(ref.param)
                continue
            carried.take_off(known, ref, group["backend"])
            warnings.warn(
                f"parameter {ref.name} carried noise that this optimizer's state does not know (the state was deleted "
                "or replaced, or another optimizer put it on); it was taken off. Call reset_state() instead of "
                "deleting state, and denoise() on an optimizer before another one takes its parameters over",
                stacklevel=5,
            )

    def reset_state(self) -> None:
        """Forgets moments, counters and noise, as if no step had been done; the weights are left clean."""
        self.state.clear()
        self._plans.clear()

    # State.

    def _stream(self, param: Tensor) -> int:
        """The stream that a parameter gets with its record: by its name, or by its position among all."""
        if param not in self._streams:
            self._streams.clear()
            for group in self.param_groups:
                streams = assign_streams(group.get("param_names"), len(group["params"]), set(self._streams.values()))
                self._streams.update(zip(group["params"], streams))
        return self._streams[param]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch.optim's; also takes checkpoints of the torch.optim class of the same rule.

        Everything is copied, with the dtype that it was saved with (torch.optim casts state to the parameters' dtype
        and shares what it need not cast). Group options that the checkpoint has not got keep their present values, and
        so does `backend`, which belongs to the machine and not to the training.

        Raises ValueError for a checkpoint of a later version than this one reads, and for one whose parameters carry
        noise of another contract without master weights: it could not be taken off.
        """
        # After the user's own hooks: what they return is what is loaded.
        handle = self.register_load_state_dict_pre_hook(checkpoint.prepare)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            vars(self).pop("_loading", None)


def _note_carried(plan: Plan) -> None:
    for ref, state in zip(plan.refs, plan.states):
        carried.note(ref.param, state)
