//! candle on the CPU: training steps and evaluation of the same models, on one batch of random images.
//!
//!     RAYON_NUM_THREADS=2 cargo run --release -- --model cnn --opt sam --batch 128

#[path = "../../timing.rs"]
mod timing;

use candle_core::backprop::GradStore;
use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{
    BatchNorm, BatchNormConfig, Conv2d, Conv2dConfig, Linear, Module, ModuleT, VarBuilder, VarMap, batch_norm,
    conv2d_no_bias, linear, loss, ops,
};
use timing::{DECAY, LR, MOMENTUM, RHO};

fn conv(inputs: usize, outputs: usize, kernel: usize, stride: usize, vb: VarBuilder<'_>) -> Result<Conv2d> {
    let config = Conv2dConfig { padding: kernel / 2, stride, ..Conv2dConfig::default() };
    conv2d_no_bias(inputs, outputs, kernel, config, vb)
}

fn norm(channels: usize, vb: VarBuilder<'_>) -> Result<BatchNorm> {
    batch_norm(channels, BatchNormConfig::default(), vb)
}

struct Wide {
    norms: [BatchNorm; 2],
    convs: [Conv2d; 2],
    shortcut: Option<Conv2d>,
}

enum Net {
    Cnn { convs: Vec<(Conv2d, BatchNorm)>, fc: [Linear; 2] },
    Wide { stem: Conv2d, blocks: Vec<Wide>, norm: BatchNorm, fc: Linear },
}

impl Net {
    fn new(model: &str, vb: &VarBuilder<'_>) -> Result<Net> {
        if model == "cnn" {
            let channels = [(1, 32), (32, 32), (32, 64), (64, 64)];
            let layer = |(n, (i, o)): (usize, (usize, usize))| -> Result<_> {
                Ok((conv(i, o, 3, 1, vb.pp(format!("conv{n}")))?, norm(o, vb.pp(format!("norm{n}")))?))
            };
            let convs = channels.into_iter().enumerate().map(layer).collect::<Result<_>>()?;
            return Ok(Net::Cnn { convs, fc: [linear(3136, 128, vb.pp("fc1"))?, linear(128, 10, vb.pp("fc2"))?] });
        }
        let mut blocks = vec![];
        let mut width = 16;
        for (n, (inputs, outputs, stride)) in timing::wide_blocks(model).into_iter().enumerate() {
            let vb = vb.pp(format!("block{n}"));
            let shortcut = inputs != outputs || stride > 1;
            blocks.push(Wide {
                norms: [norm(inputs, vb.pp("norm1"))?, norm(outputs, vb.pp("norm2"))?],
                convs: [
                    conv(inputs, outputs, 3, stride, vb.pp("conv1"))?,
                    conv(outputs, outputs, 3, 1, vb.pp("conv2"))?,
                ],
                shortcut: shortcut.then(|| conv(inputs, outputs, 1, stride, vb.pp("shortcut"))).transpose()?,
            });
            width = outputs;
        }
        let (stem, fc) = (conv(3, 16, 3, 1, vb.pp("stem"))?, linear(width, 10, vb.pp("fc"))?);
        Ok(Net::Wide { stem, blocks, norm: norm(width, vb.pp("norm"))?, fc })
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        match self {
            Net::Cnn { convs, fc } => {
                let mut x = x.clone();
                for (n, (conv, norm)) in convs.iter().enumerate() {
                    x = norm.forward_t(&conv.forward(&x)?, train)?.relu()?;
                    if n % 2 == 1 {
                        x = x.max_pool2d(2)?;
                    }
                }
                fc[1].forward(&fc[0].forward(&x.flatten_from(1)?)?.relu()?)
            }
            Net::Wide { stem, blocks, norm, fc } => {
                let mut x = stem.forward(x)?;
                for Wide { norms, convs, shortcut } in blocks {
                    let active = norms[0].forward_t(&x, train)?.relu()?;
                    if let Some(conv) = shortcut {
                        x = conv.forward(&active)?;
                    }
                    let inner = norms[1].forward_t(&convs[0].forward(&active)?, train)?.relu()?;
                    x = (x + convs[1].forward(&inner)?)?;
                }
                let x = norm.forward_t(&x, train)?.relu()?;
                fc.forward(&x.mean(D::Minus1)?.mean(D::Minus1)?)
            }
        }
    }

    fn gradients(&self, x: &Tensor, y: &Tensor) -> Result<GradStore> {
        loss::nll(&ops::log_softmax(&self.forward(x, true)?, D::Minus1)?, y)?.backward()
    }
}

/// The gradient of a parameter; candle leaves none for what did not take part.
fn of<'a>(gradients: &'a GradStore, var: &Var) -> Result<&'a Tensor> {
    gradients.get(var).ok_or_else(|| candle_core::Error::Msg("a parameter without gradient".into()))
}

fn descend(vars: &[Var], momentum: &mut [Option<Tensor>], gradients: &GradStore) -> Result<()> {
    for (var, m) in vars.iter().zip(momentum) {
        let step = (of(gradients, var)? + (var.as_detached_tensor() * DECAY)?)?;
        let step = match m.take() {
            Some(m) => ((m * MOMENTUM)? + step)?,
            None => step,
        }
        .detach();
        var.set(&(var.as_detached_tensor() - (&step * LR)?)?)?;
        *m = Some(step);
    }
    Ok(())
}

/// The gradient at w + rho g/|g|, w put back. Running statistics move in both passes here, at no cost worth telling.
fn sam_gradients(net: &Net, vars: &[Var], x: &Tensor, y: &Tensor) -> Result<GradStore> {
    let gradients = net.gradients(x, y)?;
    let mut squares = 0.0;
    for var in vars {
        squares += f64::from(of(&gradients, var)?.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    let scale = RHO / (squares.sqrt() + 1e-12);
    let kept = vars.iter().map(|var| var.as_detached_tensor().copy()).collect::<Result<Vec<_>>>()?;
    for (var, w) in vars.iter().zip(&kept) {
        var.set(&(w + (of(&gradients, var)? * scale)?)?)?;
    }
    drop(gradients);
    let gradients = net.gradients(x, y)?;
    vars.iter().zip(&kept).try_for_each(|(var, w)| var.set(w))?;
    Ok(gradients)
}

fn main() -> Result<()> {
    let args = timing::args();
    let device = Device::Cpu;
    let map = VarMap::new();
    let net = Net::new(&args.model, &VarBuilder::from_varmap(&map, DType::F32, &device))?;
    let (channels, side) = if args.model == "cnn" { (1, 28) } else { (3, 32) };
    let x = Tensor::randn(0f32, 1f32, (args.batch, channels, side, side), &device)?;
    let labels: Vec<u32> = (0..args.batch as u32).map(|i| i * 7 % 10).collect();
    let y = Tensor::from_vec(labels, args.batch, &device)?;
    // Running statistics are variables too; the parameters are those that get a gradient.
    let gradients = net.gradients(&x, &y)?;
    let vars: Vec<Var> = map.all_vars().into_iter().filter(|var| gradients.get(var).is_some()).collect();
    drop(gradients);
    let mut momentum = vec![None; vars.len()];
    timing::measure(&args, "candle", "0.11", || match &args.opt[..] {
        "eval" => net.forward(&x, false).map(|_| ()),
        "sgd" => descend(&vars, &mut momentum, &net.gradients(&x, &y)?),
        _ => descend(&vars, &mut momentum, &sam_gradients(&net, &vars, &x, &y)?),
    });
    Ok(())
}
