//! A study of curvature as text, CSV, JSON, arrays and figures.

use super::{Block, Operator, Pair, Study};
use crate::error::Result;
use crate::graph::Graph;
use crate::npz::Array;
use crate::plot::{Figure, Level, Panel, Series, thousands};
use crate::study::{Layer, Source, field};
use serde_json::{Value, json};
use std::fmt::Write;

/// Standard deviation of the Gaussian that draws an eigenvalue of the density, as a share of the spectrum's width.
const BLUR: f64 = 0.01;
/// Points of a drawn density.
const POINTS: usize = 400;
/// Densities below this share of the largest one are left out.
const FAINT: f64 = 1e-8;

/// Differences between products, as a share of them, from which on text says what helps.
const UNCERTAIN: f64 = 0.1;
const UNCERTAIN_LINE: &str = "the products are uncertain, as where ReLUs switch over few images, the smallest eigenvalue and \
                              the trace most of all: give more --images, or take --gauss-newton\n";

impl Operator {
    /// Name in text and figures.
    fn title(self) -> &'static str {
        match self {
            Operator::Hessian => "Hessian",
            Operator::GaussNewton => "Gauss-Newton",
        }
    }
}

/// Four significant digits, for columns of text.
fn short(x: f64) -> String {
    if x != 0.0 && !(0.01..1e5).contains(&x.abs()) { format!("{x:.3e}") } else { format!("{x:.4}") }
}

impl Study {
    /// Blocks of one operator, the whole model's first.
    fn of(&self, operator: Operator) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(move |block| block.operator == operator)
    }

    fn operators(&self) -> impl Iterator<Item = Operator> + '_ {
        Operator::ALL.into_iter().filter(|operator| self.of(*operator).next().is_some())
    }

    /// For a terminal: a table for each matrix, a line for each layer.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "loss {:.4}, |g| {:.4} on {} training images; |w| {:.3}; batch-norm by running statistics\n",
            self.loss,
            self.gradient_norm,
            self.settings.images.len(),
            self.weight_norm
        );
        let width = self.blocks.iter().map(|b| b.layer.len()).max().unwrap_or(0).max(5);
        for operator in self.operators() {
            let blocks: Vec<&Block> = self.of(operator).collect();
            let top = blocks.iter().map(|b| b.top.len()).max().unwrap_or(0);
            let _ = write!(text, "\n{}\n{:width$} {:>11}", operator.title(), "layer", "parameters");
            for i in 1..=top {
                let _ = write!(text, " {:>10}", format!("lambda{i}"));
            }
            let _ = writeln!(text, " {:>10} {:>21} {:>9}", "lambda_min", "trace", "h");
            for block in &blocks {
                let _ = write!(text, "{:width$} {:>11}", block.layer, thousands(block.parameters as u64));
                for i in 0..top {
                    let _ = write!(text, " {:>10}", block.top.get(i).map_or_else(|| "-".into(), |p| short(p.value)));
                }
                let error = block.trace_error.map_or_else(String::new, |e| format!(" ± {}", short(e)));
                let trace = block.trace.map_or_else(|| "-".to_owned(), |trace| short(trace) + &error);
                let _ = writeln!(text, " {:>10} {trace:>21} {:>9.2e}", short(block.smallest.value), block.step.size);
            }
            let worst = |of: &dyn Fn(&Block) -> f64| blocks.iter().map(|b| of(b)).fold(0.0, f64::max);
            let residual = |b: &Block| {
                let share = |p: &Pair| if p.residual == 0.0 { 0.0 } else { p.residual / b.scale() };
                b.top.iter().map(share).fold(0.0, f64::max)
            };
            let _ = writeln!(
                text,
                "residuals |Hv - lambda v| at most {:.1e} of the largest eigenvalue; products with h and its neighbours differ \
                 by {:.1e} at most; asymmetry {:.1e}",
                worst(&residual),
                worst(&|b| b.step.disagreement),
                worst(&|b| b.asymmetry)
            );
            if worst(&|b| b.step.disagreement) > UNCERTAIN {
                text += UNCERTAIN_LINE;
            }
        }
        text
    }

    /// A row for each measured quantity, under a header; the error of an eigenvalue is its residual, that of the step the
    /// disagreement of products, that of a density its weight.
    pub fn to_csv(&self) -> String {
        let mut text = String::from("operator,layer,parameters,quantity,number,value,error\n");
        for block in &self.blocks {
            let mut row = |quantity: &str, number: usize, value: Option<f64>, error: Option<f64>| {
                let Block { operator, layer, parameters, .. } = block;
                let [value, error] = [value, error].map(field);
                let _ = writeln!(text, "{},{layer},{parameters},{quantity},{number},{value},{error}", operator.name());
            };
            for (i, pair) in block.top.iter().enumerate() {
                row("eigenvalue", i + 1, Some(pair.value), Some(pair.residual));
            }
            row("smallest", 1, Some(block.smallest.value), Some(block.smallest.residual));
            row("trace", 1, block.trace, block.trace_error);
            row("h", 1, Some(block.step.size), Some(block.step.disagreement));
            for (i, (value, weight)) in block.density.iter().enumerate() {
                row("density", i + 1, Some(*value), Some(*weight));
            }
        }
        text
    }

    pub fn to_json(&self, source: &Source) -> Value {
        let pair = |p: &Pair| json!({"value": p.value, "residual": p.residual});
        let block = |b: &Block| {
            json!({
                "operator": b.operator.name(), "layer": b.layer, "parameters": b.parameters,
                "h": b.step.size, "disagreement": b.step.disagreement, "gradient_noise": b.step.noise,
                "asymmetry": b.asymmetry, "eigenvalues": b.top.iter().map(pair).collect::<Vec<_>>(),
                "smallest": pair(&b.smallest), "trace": b.trace, "trace_standard_error": b.trace_error,
                "density": b.density,
            })
        };
        let tensor = |(name, shape): &(String, Vec<usize>)| json!({"name": name, "shape": shape});
        let settings = &self.settings;
        json!({
            "study": "hessian", "source": source.to_json(), "batch_norm": "running statistics",
            "images": settings.images.len(), "k": settings.k, "lanczos_steps": settings.lanczos_steps,
            "density_samples": settings.density_samples, "trace_samples": settings.trace_samples, "seed": settings.seed,
            "loss": self.loss, "gradient_norm": self.gradient_norm, "weight_norm": self.weight_norm,
            "tensors": self.tensors.iter().map(tensor).collect::<Vec<_>>(),
            "blocks": self.blocks.iter().map(block).collect::<Vec<_>>(),
        })
    }

    /// Eigenvalues, eigenvectors and densities of each block, as `OPERATOR/LAYER/NAME`. Eigenvectors are rows in the order of
    /// files: a layer's parameters one behind the other, each flattened as PyTorch has it.
    ///
    /// # Errors
    /// Internal: a vector is not as long as its layer.
    pub fn arrays(&self, graph: &Graph) -> Result<Vec<Array>> {
        let mut arrays = Vec::new();
        let layers = self.operators().flat_map(|_| &self.settings.layers);
        for (block, layer) in self.blocks.iter().zip(layers) {
            let name = |what: &str| format!("{}/{}/{what}", block.operator.name(), block.layer);
            let pairs = block.top.iter().chain([&block.smallest]);
            let (values, residuals): (Vec<f64>, Vec<f64>) = pairs.map(|p| (p.value, p.residual)).unzip();
            let (nodes, weights): (Vec<f64>, Vec<f64>) = block.density.iter().copied().unzip();
            let lists =
                [("eigenvalues", values), ("residuals", residuals), ("density", nodes), ("density_weights", weights)];
            for (what, list) in lists {
                arrays.push(Array::f64(&name(what), &[list.len()], &list)?);
            }
            let rows: Vec<f32> = block.vectors.iter().flat_map(|v| in_file_order(graph, layer, v)).collect();
            arrays.push(Array::f32(&name("eigenvectors"), &[block.vectors.len(), layer.len()], &rows)?);
        }
        Ok(arrays)
    }

    /// The figures: densities of the whole model, and eigenvalues and traces by layer where there are layers.
    pub fn figures(&self, source: &Source) -> Vec<(&'static str, Figure)> {
        let mut figures = vec![("hessian.svg", self.spectrum(source))];
        if self.blocks.iter().any(|block| block.layer != "all") {
            figures.push(("layers.svg", self.by_layer(source)));
        }
        figures
    }

    fn notes(&self, source: &Source, meaning: String) -> Vec<String> {
        let images = thousands(self.settings.images.len() as u64);
        let at = format!("{} Loss of {images} training images, batch-norm by running statistics.", source.caption());
        vec![at, meaning]
    }

    /// Densities of eigenvalues of the whole model, on a logarithmic axis.
    fn spectrum(&self, source: &Source) -> Figure {
        let blocks = || self.blocks.iter().filter(|b| b.layer == "all");
        let panel = |block: &Block| Panel {
            title: format!("{}, λ₁ = {}", block.operator.title(), short(block.scale())),
            x_label: "eigenvalue".into(),
            y_label: "density".into(),
            series: vec![Series { fine: true, ..Series::new("", 0, drawn(&block.density)) }],
            log_y: true,
            wide: true,
            ..Panel::default()
        };
        let title = format!("Spectrum of {} on {}", source.model, source.data);
        let samples = match self.settings.density_samples {
            1 => "one random start".to_owned(),
            n => format!("{n} random starts"),
        };
        let meaning = format!(
            "Stochastic Lanczos quadrature, {} steps from {samples}; each eigenvalue is drawn as a Gaussian whose standard \
             deviation is {} % of the spectrum's width.",
            self.settings.lanczos_steps,
            100.0 * BLUR
        );
        let panels = blocks().map(panel).collect();
        Figure { notes: self.notes(source, meaning), ..Figure::new(&title, panels) }
    }

    /// The largest eigenvalue and the trace of each layer's block.
    fn by_layer(&self, source: &Source) -> Figure {
        let operators: Vec<Operator> = self.operators().collect();
        let layers = |operator| self.of(operator).filter(|b| b.layer != "all");
        let names: Vec<String> = operators.first().map_or(vec![], |o| layers(*o).map(|b| b.layer.clone()).collect());
        let panel = |title: &str, value: &dyn Fn(&Block) -> Option<(f64, f64)>| {
            let line = |(i, operator): (usize, &Operator)| {
                let values = || layers(*operator).enumerate().filter_map(|(x, b)| Some((x as f64, value(b)?)));
                let points = values().map(|(x, (y, _))| (x, y)).collect();
                let band = values().map(|(_, (y, error))| (y - error, y + error)).collect();
                Series { dots: true, band, ..Series::new(operator.title(), i, points) }
            };
            let whole = |operator: &Operator| {
                let block = self.of(*operator).find(|b| b.layer == "all")?;
                let label = format!("{}, whole model", operator.title());
                Some(Level { label, y: value(block)?.0, dotted: *operator == Operator::GaussNewton })
            };
            Panel {
                title: title.into(),
                series: operators.iter().enumerate().map(line).collect(),
                levels: operators.iter().filter_map(whole).filter(|level| level.y > 0.0).collect(),
                log_y: true,
                x_names: names.clone(),
                wide: true,
                ..Panel::default()
            }
        };
        let panels = vec![
            panel("largest eigenvalue of a layer's block", &|b| b.top.first().map(|p| (p.value, p.residual))),
            panel("trace of a layer's block", &|b| Some((b.trace?, b.trace_error.unwrap_or(0.0)))),
        ];
        let title = format!("Curvature by layer of {} on {}", source.model, source.data);
        let meaning =
            "Bars are residuals of eigenvalues, and standard errors of traces. Values of 0 and below are not drawn.";
        Figure { notes: self.notes(source, meaning.into()), ..Figure::new(&title, panels) }
    }
}

impl Block {
    /// The largest eigenvalue by size.
    fn scale(&self) -> f64 {
        self.top
            .iter()
            .chain([&self.smallest])
            .fold(0.0, |most: f64, p| if p.value.abs() > most.abs() { p.value } else { most })
    }
}

/// Points of a density: weights times Gaussians.
fn drawn(density: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let low = density.iter().map(|d| d.0).fold(f64::INFINITY, f64::min);
    let high = density.iter().map(|d| d.0).fold(f64::NEG_INFINITY, f64::max);
    let width = if high > low { high - low } else { high.abs().max(1.0) };
    let sigma = BLUR * width;
    if !sigma.is_finite() {
        return vec![];
    }
    let (left, right) = (low - 4.0 * sigma, high + 4.0 * sigma);
    let at = |i: usize| left + (right - left) * i as f64 / (POINTS - 1) as f64;
    let gaussian = |x: f64| (-0.5 * x * x).exp() / (sigma * std::f64::consts::TAU.sqrt());
    let value = |x: f64| density.iter().map(|(node, weight)| weight * gaussian((x - node) / sigma)).sum::<f64>();
    let points: Vec<(f64, f64)> = (0..POINTS).map(|i| (at(i), value(at(i)))).collect();
    let most = points.iter().map(|p| p.1).fold(0.0, f64::max);
    points.into_iter().map(|(x, y)| (x, if y > FAINT * most { y } else { f64::NAN })).collect()
}

/// A vector over the parameters of a layer, each permuted from its order in memory to that in files.
fn in_file_order(graph: &Graph, layer: &Layer, v: &[f32]) -> Vec<f32> {
    let mut rest = v;
    let own = graph.params().list().iter().filter(|p| layer.places.iter().any(|place| place.start == p.offset));
    own.flat_map(|p| {
        let (values, behind) = rest.split_at(p.len().min(rest.len()));
        rest = behind;
        p.to_file(values)
    })
    .collect()
}
