//! Right-hand sides: scalar expressions, and sums of scaled vectors, written with the usual operators.

use super::{Scalar, Vector};
use crate::ops::call::{Map, Scale};
use std::ops::{Add, Div, Mul, Neg, Sub};

/// A scalar expression, evaluated on the device.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr(Vec<Token>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token {
    Slot(Scalar),
    Do(Scale),
}

impl Expr {
    pub fn constant(value: f32) -> Expr {
        Expr(vec![Token::Do(Scale::Const(value))])
    }
    fn then(mut self, other: Expr, operation: Scale) -> Expr {
        self.0.extend(other.0);
        self.0.push(Token::Do(operation));
        self
    }
    fn apply(mut self, operation: Scale) -> Expr {
        self.0.push(Token::Do(operation));
        self
    }
    pub fn min(self, other: Expr) -> Expr {
        self.then(other, Scale::Min)
    }
    pub fn max(self, other: Expr) -> Expr {
        self.then(other, Scale::Max)
    }
    pub fn sqrt(self) -> Expr {
        self.apply(Scale::Sqrt)
    }
    /// `self` where `condition` is positive, else `otherwise`.
    pub fn select(self, otherwise: Expr, condition: Expr) -> Expr {
        let mut all = self;
        all.0.extend(otherwise.0);
        all.then(condition, Scale::Select)
    }

    /// Postfix code over numbered operands; slots not seen yet are appended to `slots`.
    pub(super) fn code(&self, slots: &mut Vec<Scalar>) -> Vec<Scale> {
        let step = |token: &Token| match token {
            Token::Do(scale) => *scale,
            Token::Slot(slot) => {
                let known = slots.iter().position(|s| s == slot);
                Scale::Read(known.unwrap_or_else(|| {
                    slots.push(*slot);
                    slots.len() - 1
                }))
            }
        };
        self.0.iter().map(step).collect()
    }
}

impl From<Scalar> for Expr {
    fn from(slot: Scalar) -> Expr {
        Expr(vec![Token::Slot(slot)])
    }
}
impl<T: Into<Expr>> Mul<T> for Expr {
    type Output = Expr;
    fn mul(self, other: T) -> Expr {
        self.then(other.into(), Scale::Mul)
    }
}
impl<T: Into<Expr>> Add<T> for Expr {
    type Output = Expr;
    fn add(self, other: T) -> Expr {
        self.then(other.into(), Scale::Add)
    }
}
impl<T: Into<Expr>> Sub<T> for Expr {
    type Output = Expr;
    fn sub(self, other: T) -> Expr {
        self.then(other.into().apply(Scale::Neg), Scale::Add)
    }
}
impl<T: Into<Expr>> Div<T> for Expr {
    type Output = Expr;
    fn div(self, other: T) -> Expr {
        self.then(other.into(), Scale::Div)
    }
}
impl Neg for Expr {
    type Output = Expr;
    fn neg(self) -> Expr {
        self.apply(Scale::Neg)
    }
}

/// `coefficient * map(v) * factor(u)`.
#[derive(Clone, Debug)]
pub struct Term {
    pub(super) coefficient: Expr,
    pub(super) v: Vector,
    pub(super) map: Map,
    pub(super) factor: Option<(Vector, Map)>,
}

impl Term {
    /// The term times `map(u)`, elementwise, instead of any factor that it had.
    pub fn times(self, u: Vector, map: Map) -> Term {
        Term { factor: Some((u, map)), ..self }
    }
}

/// A sum of terms, the right-hand side of [`super::Step::set`].
#[derive(Clone, Debug)]
pub struct Sum(pub(super) Vec<Term>);

impl Sum {
    /// No terms: `set` then writes zeros.
    pub fn zero() -> Sum {
        Sum(vec![])
    }
}

impl Vector {
    /// Elementwise `map(self)` as a term.
    pub fn mapped(self, map: Map) -> Term {
        Term { coefficient: Expr::constant(1.0), v: self, map, factor: None }
    }
}
impl Mul<Vector> for Scalar {
    type Output = Term;
    fn mul(self, v: Vector) -> Term {
        Expr::from(self) * v.mapped(Map::Identity)
    }
}
impl Mul<Vector> for f32 {
    type Output = Term;
    fn mul(self, v: Vector) -> Term {
        Expr::constant(self) * v.mapped(Map::Identity)
    }
}
impl Mul<Term> for Expr {
    type Output = Term;
    fn mul(self, term: Term) -> Term {
        // 1 * x is x: keep the code of the common case short.
        let coefficient = if term.coefficient == Expr::constant(1.0) { self } else { self * term.coefficient };
        Term { coefficient, ..term }
    }
}
impl<T: Into<Expr>> Div<T> for Term {
    type Output = Term;
    fn div(self, by: T) -> Term {
        Term { coefficient: self.coefficient / by, ..self }
    }
}
impl<T: Into<Sum>> Add<T> for Vector {
    type Output = Sum;
    fn add(self, other: T) -> Sum {
        Sum::from(self) + other
    }
}
impl<T: Into<Sum>> Add<T> for Term {
    type Output = Sum;
    fn add(self, other: T) -> Sum {
        Sum::from(self) + other
    }
}
impl<T: Into<Sum>> Add<T> for Sum {
    type Output = Sum;
    fn add(mut self, other: T) -> Sum {
        self.0.extend(other.into().0);
        self
    }
}
impl From<Term> for Sum {
    fn from(term: Term) -> Sum {
        Sum(vec![term])
    }
}
impl From<Vector> for Sum {
    fn from(v: Vector) -> Sum {
        Sum(vec![v.mapped(Map::Identity)])
    }
}
