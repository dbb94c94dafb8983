"""Training of a task's policy: demonstrations, imitation, then PPO; see ``train_policy``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from visuomotor.control.train.arm_course import PICK_SETTINGS, PickCourse
from visuomotor.control.train.checkpoint import LearnedDriver, Progress, load_checkpoint, save_checkpoint
from visuomotor.control.train.course import Course, PolicyTraining, make_forecaster
from visuomotor.control.train.drive_course import DriveCourse
from visuomotor.control.train.episodes import Expert
from visuomotor.control.train.imitation import Demonstrations, collect, imitate
from visuomotor.control.train.normalizer import Normalizer
from visuomotor.control.train.sb3_adapter import CasePool, WorldsVecEnv
from visuomotor.control.train.warm_ppo import WarmPPO

__all__ = ["COURSES", "PolicyTraining", "make_forecaster", "make_settings", "train_policy"]

DEMONSTRATIONS_FILE = "demonstrations.npz"
COURSES: dict[str, Course] = {"drive": DriveCourse(), "pick": PickCourse()}
SETTINGS = {"drive": PolicyTraining(), "pick": PICK_SETTINGS}


def train_policy(
    task: str = "drive",
    out: Path = Path("runs/drive-policy"),
    *,
    settings: PolicyTraining | None = None,
    max_minutes: float = 75.0,
    max_steps: int | None = None,
    resume: bool = False,
    report: Callable[[str], None] = print,
) -> Path:
    """Train the policy and return the folder of its best checkpoint (network and normaliser), ``out/best``.

    Demonstrations of the task's teacher on the error model, aggregated on the learner's path, start the actor; PPO goes
    on from there on training cases, failed ones more often. The best checkpoint is the one with the highest score on
    tuning cases, under the error model and on truth together. ``max_minutes`` counts all sessions of a resumed
    training, ``max_steps`` limits transitions of PPO. ``resume`` goes on from ``out/last``, under its settings
    unless others are given. TensorBoard logs are in ``out/tensorboard``.
    """
    course = get_course(task)
    before = load_checkpoint(out / "last") if resume else None
    if before and before[2].task != task:
        raise ValueError(f"{out / 'last'}: a training of task {before[2].task!r}, expected {task!r}")
    if settings is None:
        settings = msgspec.convert(before[2].settings, PolicyTraining) if before else make_settings(task)
    if settings.teacher not in course.lesson.teachers:
        raise ValueError(f"teacher: expected one of {', '.join(course.lesson.teachers)}, got {settings.teacher!r}")
    steps_before = before[2].environment_steps if before else 0
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng([settings.seed, steps_before])
    clock = _Clock(before[2].minutes if before else 0.0)
    report(f"settings: {msgspec.json.encode(settings).decode()}")

    pool = CasePool(settings.seed + steps_before, settings.replay)
    env = course.make_env(settings, pool)
    teacher = course.make_teacher(settings, env)
    demonstrations = Demonstrations(settings.demonstration_capacity, settings.seed, course.lesson)
    try:
        if before:
            model, normalizer, progress = before
            progress.settings = msgspec.to_builtins(settings)
            if (out / DEMONSTRATIONS_FILE).is_file():
                demonstrations.load(out / DEMONSTRATIONS_FILE)
            report(f"resumed after {progress.minutes:.1f} minutes, {progress.environment_steps} steps")
        else:
            model, normalizer, progress = _first_demonstrations(settings, env, teacher, demonstrations, rng, report)
        demonstrations.normalizer = normalizer
        model.demonstrations = demonstrations
        run = _Run(course, settings, out, model, normalizer, progress, clock, max_minutes, report)
        _aggregate(run, env, teacher, demonstrations, pool, rng)
        venv = WorldsVecEnv(env, normalizer, progress.reward_scale, pool, demonstrations, teacher)
        model.set_env(venv)
        model.set_logger(configure(str(out / "tensorboard"), ["tensorboard"]))
        venv.seed(int(rng.integers(2**31)))
        if clock.minutes < max_minutes:
            model.learn(max_steps or 1 << 60, callback=run, reset_num_timesteps=False)
            run.evaluate("end")
    finally:
        env.close()
    return out / "best"


def make_settings(task: str, **changes: Any) -> PolicyTraining:
    """The settings with which a task's policy is trained, with some of them changed."""
    get_course(task)
    return msgspec.structs.replace(SETTINGS[task], **changes)


def get_course(task: str) -> Course:
    """The course of a task; ValueError with the known names when there is none."""
    if task not in COURSES:
        raise ValueError(f"task: expected one of {', '.join(COURSES)}, got {task!r}")
    return COURSES[task]


class _Clock:
    """Minutes of training, over all sessions."""

    def __init__(self, before: float) -> None:
        self._start = time.monotonic() - 60.0 * before

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self._start) / 60.0


def _first_demonstrations(
    settings: PolicyTraining,
    env: Any,
    teacher: Expert,
    demonstrations: Demonstrations,
    rng: np.random.Generator,
    report: Callable[[str], None],
) -> tuple[WarmPPO, Normalizer, Progress]:
    """The teacher acts: demonstrations, the normaliser fitted to them, and a network that has not learned yet."""
    success, deviation = collect(demonstrations, env, settings.demonstration_steps, rng, settings.gamma, expert=teacher)
    normalizer = demonstrations.normalizer = Normalizer.fit(
        demonstrations.arrays()[0], demonstrations.lesson.interface.layout
    )
    reward_scale = 1.0 / max(deviation, 1e-3)
    report(f"{len(demonstrations)} demonstrations, expert's success {success:.1%}")
    model = WarmPPO(
        "MlpPolicy",
        WorldsVecEnv(env, normalizer, reward_scale),
        learning_rate=settings.learning_rate,
        n_steps=settings.rollout_steps,
        batch_size=settings.batch_size,
        n_epochs=settings.epochs,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        clip_range=settings.clip_range,
        target_kl=settings.target_kl,
        ent_coef=settings.entropy,
        seed=settings.seed,
        device="cpu",
        value_rollouts=settings.value_rollouts,
        policy_kwargs={
            "net_arch": {"pi": [settings.width] * settings.depth, "vf": [256, 256]},
            "activation_fn": torch.nn.SiLU,
            "log_std_init": settings.log_deviation,
            "ortho_init": True,
        },
    )
    task = demonstrations.lesson.interface.task
    return model, normalizer, Progress(task=task, settings=msgspec.to_builtins(settings), reward_scale=reward_scale)


def _aggregate(
    run: _Run,
    env: Any,
    teacher: Expert,
    demonstrations: Demonstrations,
    pool: CasePool,
    rng: np.random.Generator,
) -> None:
    """Imitation in rounds: fit the network, let it act, label what it meets; goes on where a checkpoint stopped."""
    settings, clock = run.settings, run.clock
    done = int(run.progress.imitation.get("rounds", -1))
    if done >= 0 and clock.minutes >= settings.imitation_minutes:
        return
    for round_index in range(done + 1, settings.aggregation_rounds + 1):
        last = round_index == settings.aggregation_rounds or clock.minutes >= settings.imitation_minutes
        success = float("nan")
        if round_index:
            learner = run.driver.act_on
            success, _ = collect(
                demonstrations,
                env,
                settings.aggregation_steps,
                rng,
                settings.gamma,
                learner,
                expert=teacher,
                ended_with=pool.report,
            )
        steps = settings.final_steps if last else settings.imitation_steps
        loss = imitate(run.ppo.policy, demonstrations, epochs=settings.imitation_epochs, steps_max=steps)
        run.progress.imitation = {
            "rounds": round_index,
            "samples": len(demonstrations),
            "loss": loss,
            "minutes": clock.minutes,
        }
        run.report(
            f"{clock.minutes:.1f} min: imitation round {round_index}, {len(demonstrations)} samples, "
            f"success {success:.1%}, loss {loss:.4f}"
        )
        if last:
            run.evaluate("imitation")
            return
        run.save()


class _Run(BaseCallback):
    """What happens between rollouts: log, evaluate, keep the best and the last, stop in time."""

    def __init__(
        self,
        course: Course,
        settings: PolicyTraining,
        out: Path,
        model: WarmPPO,
        normalizer: Normalizer,
        progress: Progress,
        clock: _Clock,
        max_minutes: float,
        report: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.course = course
        self.settings, self.out, self.ppo, self.normalizer = settings, out, model, normalizer
        self.progress, self.clock, self.max_minutes, self.report = progress, clock, max_minutes, report
        self._evaluated = clock.minutes - 0.5 * settings.evaluation_minutes
        self._steps_at_start, self._start = model.num_timesteps, clock.minutes

    @property
    def driver(self) -> LearnedDriver:
        """The network as it is now."""
        return LearnedDriver(self.ppo, self.normalizer, self.course.lesson.interface)

    def _on_step(self) -> bool:
        return self.clock.minutes < self.max_minutes

    def _on_rollout_start(self) -> None:
        venv = self.training_env
        assert isinstance(venv, WorldsVecEnv)
        alone = self.clock.minutes - self.progress.imitation.get("minutes", 0.0)
        fading = 1.0 - alone / self.settings.teacher_minutes
        self.ppo.teacher_rate = self.settings.teacher_rate * max(fading, 0.0)
        if venv.recent:
            recent = list(venv.recent)
            for name, value in self.course.figures(recent).items():
                self.logger.record(f"{self.progress.task}/{name}", value)
            for name in recent[0].reward_terms:
                self.logger.record(f"terms/{name}", float(np.mean([e.reward_terms[name] for e in recent])))
        minutes = max(self.clock.minutes - self._start, 1e-6)
        self.logger.record("time/steps_per_s", (self.ppo.num_timesteps - self._steps_at_start) / (60.0 * minutes))
        values = self.logger.name_to_value
        if self.ppo.rollouts_seen % 10 == 0 and venv.recent:
            self.report(
                f"{self.clock.minutes:.1f} min: {self.ppo.num_timesteps} steps, {values['time/steps_per_s']:.0f}/s, "
                f"kl {values.get('train/approx_kl', 0.0):.4f}, "
                f"explained {values.get('train/explained_variance', 0.0):.2f}, "
                f"std {values.get('train/std', 0.0):.3f}, train: {self.course.describe(list(venv.recent))}"
            )
        self.logger.dump(self.ppo.num_timesteps)
        if self.evaluation_due():
            self.evaluate("ppo")

    def evaluation_due(self) -> bool:
        """Whether the last evaluation is long enough ago."""
        return self.clock.minutes - self._evaluated >= self.settings.evaluation_minutes

    def evaluate(self, phase: str) -> None:
        """Play the tuning cases, compare with the baseline, keep the checkpoint if it is the best."""
        if not self.progress.baseline:
            for perception in ("truth", "errors"):
                worlds = min(self.settings.worlds, self.settings.evaluation_cases)
                result = self.course.evaluate(self.course.make_baseline(worlds), self.settings, perception)
                self.progress.baseline[perception] = result["success"]
                baseline = self.course.lesson.baseline
                self.report(f"{self.clock.minutes:.1f} min: {baseline}, {perception}: {result['text']}")
        results = {name: self.course.evaluate(self.driver, self.settings, name) for name in ("truth", "errors")}
        for name, result in results.items():
            self.report(f"{self.clock.minutes:.1f} min: {phase}, {name}: {result['text']}")
            if phase != "imitation":
                for figure, value in result.items():
                    if figure != "text":
                        self.ppo.logger.record(f"tune/{name}/{figure}", value)
        score = 0.5 * sum(r["score"] for r in results.values())
        p = self._stamp()
        p.evaluations.append(
            {"minutes": p.minutes, "phase": phase, "steps": p.environment_steps, "score": score, **results}
        )
        if score > p.best_score:
            p.best_score = score
            save_checkpoint(self.out / "best", self.ppo, self.normalizer, p)
            self.report(f"{self.clock.minutes:.1f} min: best so far, score {score:.3f}")
        self.save(demonstrations=phase == "imitation" or self.ppo.teacher_rate > 0.0)
        self._evaluated = self.clock.minutes

    def _stamp(self) -> Progress:
        """The progress, brought up to now."""
        p = self.progress
        p.minutes, p.environment_steps, p.rollouts = self.clock.minutes, self.ppo.num_timesteps, self.ppo.rollouts_seen
        return p

    def save(self, demonstrations: bool = True) -> None:
        """Write the checkpoint that a training goes on from."""
        save_checkpoint(self.out / "last", self.ppo, self.normalizer, self._stamp())
        if demonstrations and self.ppo.demonstrations is not None:
            self.ppo.demonstrations.save(self.out / DEMONSTRATIONS_FILE)
