//! burn's flex backend on the CPU: training steps and evaluation of the same models, on one batch of random images.
//!
//!     RAYON_NUM_THREADS=2 cargo run --release -- --model cnn --opt sam --batch 128

#[path = "../../timing.rs"]
mod timing;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use std::convert::Infallible;
use timing::{Args, DECAY, LR, MOMENTUM, RHO};

fn conv(inputs: usize, outputs: usize, kernel: usize, stride: usize, device: &Device) -> Conv2d {
    let pad = kernel / 2;
    Conv2dConfig::new([inputs, outputs], [kernel, kernel])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .with_bias(false)
        .init(device)
}

fn norm(channels: usize, device: &Device) -> BatchNorm {
    BatchNormConfig::new(channels).init(device)
}

trait Net: Module + Clone {
    fn forward(&self, x: Tensor<4>) -> Tensor<2>;

    fn gradients(&self, x: &Tensor<4>, y: &Tensor<1, Int>) -> GradientsParams {
        let loss = CrossEntropyLossConfig::new().init(&x.device()).forward(self.forward(x.clone()), y.clone());
        GradientsParams::from_grads(loss.backward(), self)
    }
}

#[derive(Module, Debug)]
struct Cnn {
    convs: Vec<Conv2d>,
    norms: Vec<BatchNorm>,
    pool: MaxPool2d,
    fc1: Linear,
    fc2: Linear,
}

impl Cnn {
    fn new(device: &Device) -> Cnn {
        let channels = [(1, 32), (32, 32), (32, 64), (64, 64)];
        Cnn {
            convs: channels.iter().map(|(inputs, outputs)| conv(*inputs, *outputs, 3, 1, device)).collect(),
            norms: channels.iter().map(|(_, outputs)| norm(*outputs, device)).collect(),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            fc1: LinearConfig::new(3136, 128).init(device),
            fc2: LinearConfig::new(128, 10).init(device),
        }
    }
}

impl Net for Cnn {
    fn forward(&self, mut x: Tensor<4>) -> Tensor<2> {
        for (n, (conv, norm)) in self.convs.iter().zip(&self.norms).enumerate() {
            x = relu(norm.forward(conv.forward(x)));
            if n % 2 == 1 {
                x = self.pool.forward(x);
            }
        }
        self.fc2.forward(relu(self.fc1.forward(x.flatten::<2>(1, 3))))
    }
}

#[derive(Module, Debug)]
struct Wide {
    norm1: BatchNorm,
    conv1: Conv2d,
    norm2: BatchNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

#[derive(Module, Debug)]
struct WideResNet {
    stem: Conv2d,
    blocks: Vec<Wide>,
    norm: BatchNorm,
    fc: Linear,
}

impl WideResNet {
    fn new(model: &str, device: &Device) -> WideResNet {
        let list = timing::wide_blocks(model);
        let width = list.last().map_or(16, |block| block.1);
        let block = |(inputs, outputs, stride): (usize, usize, usize)| Wide {
            norm1: norm(inputs, device),
            conv1: conv(inputs, outputs, 3, stride, device),
            norm2: norm(outputs, device),
            conv2: conv(outputs, outputs, 3, 1, device),
            shortcut: (inputs != outputs || stride > 1).then(|| conv(inputs, outputs, 1, stride, device)),
        };
        WideResNet {
            stem: conv(3, 16, 3, 1, device),
            blocks: list.into_iter().map(block).collect(),
            norm: norm(width, device),
            fc: LinearConfig::new(width, 10).init(device),
        }
    }
}

impl Net for WideResNet {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let mut x = self.stem.forward(x);
        for block in &self.blocks {
            let active = relu(block.norm1.forward(x.clone()));
            if let Some(conv) = &block.shortcut {
                x = conv.forward(active.clone());
            }
            x = x + block.conv2.forward(relu(block.norm2.forward(block.conv1.forward(active))));
        }
        let x = relu(self.norm.forward(x));
        self.fc.forward(x.mean_dim(3).mean_dim(2).flatten::<2>(1, 3))
    }
}

/// Sums the squares of all gradients.
struct Squares<'a> {
    gradients: &'a GradientsParams,
    sum: f64,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const N: usize>(&mut self, param: &Param<Tensor<N>>) {
        if let Some(g) = self.gradients.get::<N>(param.id) {
            self.sum += f64::from((g.clone() * g).sum().into_scalar::<f32>());
        }
    }
}

/// Moves every parameter by its gradient times `scale`.
struct Climb<'a> {
    gradients: &'a GradientsParams,
    scale: f64,
}

impl ModuleMapper for Climb<'_> {
    fn map_float<const N: usize>(&mut self, param: Param<Tensor<N>>) -> Param<Tensor<N>> {
        let Some(g) = self.gradients.get::<N>(param.id) else { return param };
        let scale = self.scale;
        param.map(|w| Tensor::from_inner(w.inner() + g * scale).require_grad())
    }
}

/// The gradient at w + rho g/|g|. Running statistics are not held still in it, at no cost worth telling.
fn sam_gradients<M: Net>(net: &M, x: &Tensor<4>, y: &Tensor<1, Int>) -> GradientsParams {
    let gradients = net.gradients(x, y);
    let mut squares = Squares { gradients: &gradients, sum: 0.0 };
    net.visit(&mut squares);
    let scale = RHO / (squares.sum.sqrt() + 1e-12);
    net.clone().map(&mut Climb { gradients: &gradients, scale }).gradients(x, y)
}

fn bench<M: Net>(args: &Args, net: M, image: [usize; 3], device: &Device) {
    let evaluate = args.opt == "eval";
    let device = if evaluate { device.clone().inner() } else { device.clone() };
    let [channels, height, width] = image;
    let x = Tensor::<4>::random([args.batch, channels, height, width], Distribution::Normal(0.0, 1.0), &device);
    let labels: Vec<i64> = (0..args.batch as i64).map(|i| i * 7 % 10).collect();
    let y = Tensor::<1, Int>::from_data(TensorData::new(labels, [args.batch]), &device);
    let momentum = MomentumConfig { momentum: MOMENTUM, dampening: 0.0, nesterov: false };
    let decay = WeightDecayConfig { penalty: DECAY as f32 };
    let mut sgd = SgdConfig::new().with_momentum(Some(momentum)).with_weight_decay(Some(decay)).init();
    let mut net = Some(if evaluate { net.valid() } else { net });
    timing::measure(args, "burn", "0.22 (flex)", || {
        if let Some(now) = net.take() {
            net = Some(match &args.opt[..] {
                "eval" => {
                    // Nothing is computed before somebody asks for it.
                    std::hint::black_box(now.forward(x.clone()).into_data());
                    now
                }
                "sgd" => {
                    let gradients = now.gradients(&x, &y);
                    sgd.step(LR, now, gradients)
                }
                _ => {
                    let gradients = sam_gradients(&now, &x, &y);
                    sgd.step(LR, now, gradients)
                }
            });
        }
        Ok::<(), Infallible>(())
    });
}

fn main() {
    let args = timing::args();
    let device = Device::flex().autodiff();
    match &args.model[..] {
        "cnn" => bench(&args, Cnn::new(&device), [1, 28, 28], &device),
        model => bench(&args, WideResNet::new(model, &device), [3, 32, 32], &device),
    }
}
