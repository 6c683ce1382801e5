"""Calibration errors, temperature scaling and selective prediction."""

from xentjax.calibration.errors import (
    ReliabilityCurve as ReliabilityCurve,
    classwise_calibration_error as classwise_calibration_error,
    expected_calibration_error as expected_calibration_error,
    reliability_curve as reliability_curve,
)
from xentjax.calibration.selection import (
    RiskCoverage as RiskCoverage,
    risk_coverage as risk_coverage,
)
from xentjax.calibration.temperature import (
    TemperatureFit as TemperatureFit,
    fit_temperature as fit_temperature,
)
