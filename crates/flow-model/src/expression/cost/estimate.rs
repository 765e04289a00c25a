//! Costs and weights as straight lines over the weight of the context.

use super::VALUE;

/// Steps that making or passing a value costs: less than evaluating something.
const HANDLING: f64 = 0.25;
/// Of a number or truth: the longest there are.
pub(super) const SCALAR: f64 = VALUE + 32.0;
/// How much longer the text of a value may be than what it was made of: escaped, character by character.
const AS_TEXT: f64 = 6.0;

/// `fixed + slope · w`, `w` the weight of the context.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear {
    pub(super) fixed: f64,
    pub(super) slope: f64,
}

impl Linear {
    pub(super) const NONE: Self = Self::fixed(0.0);
    pub(super) const CONTEXT: Self = Self {
        fixed: 0.0,
        slope: 1.0,
    };

    pub(super) const fn fixed(fixed: f64) -> Self {
        Self { fixed, slope: 0.0 }
    }

    pub(super) fn at(self, weight: f64) -> f64 {
        self.fixed + self.slope * weight
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            fixed: self.fixed + other.fixed,
            slope: self.slope + other.slope,
        }
    }

    pub(super) fn times(self, factor: f64) -> Self {
        Self {
            fixed: self.fixed * factor,
            slope: self.slope * factor,
        }
    }

    /// How many values weigh so much at most.
    pub(super) fn count(self) -> Self {
        self.times(1.0 / VALUE).plus(Self::fixed(1.0))
    }

    /// What it costs to make, hold or go through so much.
    pub(super) fn handled(self) -> Self {
        self.count().times(HANDLING)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// A number or truth.
    Scalar,
    Any,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    pub(super) cost: Linear,
    pub(super) weight: Linear,
    pub(super) kind: Kind,
}

impl Estimate {
    /// With what it takes to make and hold it.
    pub(super) fn of(cost: Linear, weight: Linear, kind: Kind) -> Self {
        Self {
            cost: cost.plus(Linear::fixed(1.0)).plus(weight.handled()),
            weight,
            kind,
        }
    }

    /// Its weight where it becomes text.
    pub(super) fn as_text(self) -> Linear {
        match self.kind {
            Kind::Text | Kind::Scalar => self.weight,
            Kind::Any => self.weight.times(AS_TEXT),
        }
    }

    /// What goes through all of it, and makes a number or truth.
    pub(super) fn walked(self) -> Self {
        Self::of(
            self.cost.plus(self.weight.handled()),
            Linear::fixed(SCALAR),
            Kind::Scalar,
        )
    }
}
