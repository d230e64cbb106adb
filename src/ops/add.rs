//! The sum of two values of one shape.

use super::call::Kernel;
use super::case::{Case, Operand, Values};
use super::site::Site;
use super::value::Shape;
use super::{Op, Operation, SpecAt, exactly};
use crate::error::{Error, Result};

pub struct Add;

impl Operation for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Shape> {
        let [a, b] = exactly::<2>("add", inputs)?;
        if a != b {
            return Err(Error::usage(format!("add of {a} and {b}: the shapes must be equal")));
        }
        Ok(a.clone())
    }

    fn reduction(&self, _inputs: &[&Shape]) -> Option<usize> {
        Some(2)
    }

    fn forward(&self, site: &mut dyn Site) -> Result<()> {
        site.emit("forward", Kernel::Add, vec![site.input(0), site.input(1)], vec![site.output()]);
        Ok(())
    }

    fn backward(&self, site: &mut dyn Site) -> Result<()> {
        for i in 0..2 {
            if site.alias_grad_input(i) {
                continue;
            }
            if let Some((dx, add)) = site.grad_input(i) {
                site.emit("backward", Kernel::Copy { add }, vec![site.grad_output()], vec![dx]);
            }
        }
        Ok(())
    }

    fn spec(&self, at: &SpecAt<'_>) -> Vec<f64> {
        at.inputs[0].iter().zip(at.inputs[1]).map(|(a, b)| a + b).collect()
    }

    fn spec_backward(&self, _at: &SpecAt<'_>, _output: &[f64], dy: &[f64]) -> Vec<Option<Vec<f64>>> {
        vec![Some(dy.to_vec()), Some(dy.to_vec())]
    }
}

pub(super) fn cases() -> Vec<Case> {
    use Operand::{Feed, Result};
    vec![
        Case::graph("2 x [8, 8, 32]", 2)
            .feed(&[8, 8, 32], Values::Normal)
            .feed(&[8, 8, 32], Values::Normal)
            .op(Op::Add, &[Feed(0), Feed(1)]),
        Case::graph("3 x [7], a value added to itself", 3).feed(&[7], Values::Normal).op(Op::Add, &[Feed(0), Feed(0)]),
        Case::graph("2 x [5, 3, 10], residual: s = x + relu(x), s + relu(s)", 2)
            .feed(&[5, 3, 10], Values::AwayFromZero)
            .op(Op::Relu, &[Feed(0)])
            .op(Op::Add, &[Feed(0), Result(0)])
            .op(Op::Relu, &[Result(1)])
            .op(Op::Add, &[Result(1), Result(2)]),
    ]
}

/// The residual sums of WRN-16-4.
pub(super) fn bench() -> Vec<Case> {
    let sum = |shape: [usize; 3]| {
        Case::graph(format!("32 x {shape:?}"), 32)
            .feed(&shape, Values::Normal)
            .feed(&shape, Values::Normal)
            .op(Op::Add, &[Operand::Feed(0), Operand::Feed(1)])
    };
    [[32, 32, 64], [16, 16, 128], [8, 8, 256]].map(sum).into()
}
