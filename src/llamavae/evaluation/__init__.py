"""Measures, plots and reports of trained models."""

from __future__ import annotations
