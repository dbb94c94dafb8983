"""Tracks in slots and their futures by id: what policies and guards of every robot read."""

from __future__ import annotations

import numpy as np
import pytest

from visuomotor.control.slots import TrackSlots, find_nearest
from visuomotor.messages.schema import Forecast, Header, Tracks

HERE = np.array([1.0, 1.0], np.float32)


def tracks_at(*places: tuple[float, float]) -> Tracks:
    """Tracks with ids 10, 11, ..."""
    count = len(places)
    return Tracks(
        header=Header(valid=True),
        track_id=np.arange(10, 10 + count, dtype=np.int32),
        class_id=np.arange(count, dtype=np.int32),
        score=np.ones(count, np.float32),
        odom_position_m=np.array(places, np.float32).reshape(-1, 2),
        odom_velocity_mps=np.zeros((count, 2), np.float32),
        odom_heading_rad=np.zeros(count, np.float32),
        size_m=np.ones((count, 2), np.float32),
        covariance=np.zeros((count, 4, 4), np.float32),
        age_s=np.ones(count, np.float32),
        unseen_s=np.zeros(count, np.float32),
    )


def forecast_of(*ids: int, futures: int = 2, steps: int = 3) -> Forecast:
    """Each position is the id; the futures' probabilities are 0.25 and 0.75."""
    position = np.zeros((len(ids), futures, steps, 2), np.float32)
    position += np.array(ids, np.float32)[:, None, None, None]
    probability = np.tile(np.array([0.25, 0.75], np.float32)[:futures], (len(ids), 1))
    return Forecast(
        header=Header(valid=True),
        track_id=np.array(ids, np.int32),
        probability=probability,
        odom_position_m=position,
        spread_m=np.zeros((len(ids), futures, steps, 3), np.float32),
    )


def test_the_nearest_have_slots_in_the_order_in_which_they_are_published():
    tracks = tracks_at((9.0, 1.0), (1.0, 2.0), (50.0, 1.0), (3.0, 1.0))
    slots = TrackSlots(tracks, HERE, 2)
    assert slots.present.tolist() == [[True, True]]
    assert slots.fill("track_id", dtype=np.int64).tolist() == [[11, 13]]
    assert slots.fill("odom_position_m", 2).tolist() == [[[1.0, 2.0], [3.0, 1.0]]]
    assert find_nearest(np.array([[2.0, 1.0], [0.0, 1.0], [1.0, 2.0]]), HERE, 2).tolist() == [0, 1], (
        "as near: the first"
    )


@pytest.mark.parametrize("tracks", [None, tracks_at()])
def test_without_tracks_all_slots_are_empty(tracks: Tracks | None):
    slots = TrackSlots(tracks, HERE, 3)
    assert slots.present.tolist() == [[False] * 3]
    assert slots.fill("odom_position_m", 2).tolist() == [[[0.0, 0.0]] * 3]


def test_futures_are_found_by_id_and_a_track_without_one_stands():
    slots = TrackSlots(tracks_at((4.0, 5.0), (6.0, 7.0), (2.0, 2.0)), HERE, 4)
    futures, probability = slots.match(forecast_of(12, 10))
    assert futures.shape == (1, 4, 2, 3, 2)
    assert probability.tolist() == [[[0.25, 0.75], [0.0, 0.0], [0.25, 0.75], [0.0, 0.0]]]
    assert (futures[0, 0] == 10.0).all()
    assert (futures[0, 1] == [6.0, 7.0]).all(), "no forecast of 11"
    assert (futures[0, 2] == 12.0).all()
    assert (futures[0, 3] == 0.0).all(), "an empty slot"
    assert futures.dtype == probability.dtype == np.float32


@pytest.mark.parametrize("forecast", [None, forecast_of(10, futures=0)])
def test_without_a_forecast_there_are_no_futures(forecast: Forecast | None):
    futures, probability = TrackSlots(tracks_at((4.0, 5.0)), HERE, 4).match(forecast)
    assert futures.shape == (1, 4, 0, 0, 2)
    assert probability.shape == (1, 4, 0)
