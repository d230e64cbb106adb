//! The training loop: from a recipe to a run folder.

mod epoch;
mod observing;
mod pace;
mod saving;

pub use observing::{Observer, Scene};

use super::checkpoint::{Checkpoint, Position, Subject};
use super::divergence::Divergence;
use super::engine::{self, Programs, TEST, TRAIN};
use super::init::Init;
use super::labels::{Counts, Judge, Labels};
use super::loader::Loader;
use super::origin::{Content, Origin};
use super::outcome::{Summary, Where};
use super::progress::{Length, Progress, Style};
use super::records::{Extras, NoiseScores, Records, Scores, StepRow};
use super::run_folder::RunFolder;
use super::{memory, opening, resume, signals};
use crate::data::DataSet;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::exec::{Exec, Recording};
use crate::graph::Graph;
use crate::models::{self, Model};
use crate::optim;
use crate::optim::schedule::Schedule;
use crate::recipe::Recipe;
use crate::step::{DROPPED, FIRST_LOSS_SCALE, GOOD_STEPS, LOSS_SCALE, Recorder, SKIPPED};
use std::sync::Arc;
use std::time::Instant;

/// Images that choose the best epoch where some are held out.
const VALIDATION: &str = "validation";

/// A run that is ready to go.
pub struct Session {
    recipe: Recipe,
    data: Arc<DataSet>,
    graph: Graph,
    exec: Exec,
    programs: Programs,
    folder: RunFolder,
    records: Records,
    subject: Subject,
    content: Content,
    position: Position,
    /// Maker of the images of each epoch with AutoAugment, and how long this epoch waited for it.
    loader: Option<Loader>,
    waited: f64,
    train_order: Vec<u32>,
    val_order: Vec<u32>,
    labels: Counts,
    judge: Option<Judge>,
    /// Images that it has, and what it said last.
    judged: usize,
    noise: Option<NoiseScores>,
    /// Steps of an epoch, and of the whole run.
    per_epoch: u64,
    total: u64,
    /// Steps at which this process found the run, and at which it ends it.
    before: u64,
    last_step: u64,
    schedule: Schedule,
    progress: Progress,
    /// Step of the newest checkpoint, and whether the last evaluation of an epoch was finite.
    kept: u64,
    sound: bool,
    /// Whether this process has said that the run stands still.
    stalled: bool,
    /// Terms that the steps of this process have left out; see [`DROPPED`].
    terms_dropped: f32,
    /// Scalars of the step just recorded; kept so that a step allocates nothing.
    values: Vec<f32>,
    scalars: Vec<(&'static str, f32)>,
    observer: Option<Box<dyn Observer>>,
    /// Its values for the record of the next step.
    observed: Vec<(&'static str, f32)>,
    begun: Instant,
    epoch_begun: Instant,
}

impl Session {
    /// Plans the programs of a model, which need not be in the table, on data that is loaded, and opens the run's folder.
    ///
    /// The recipe is used as it is: a model's own recipe has been put into it by `cli::flags::resolve`, or not at all.
    ///
    /// # Errors
    /// Wrong settings, images that do not fit, a folder that cannot be used: one message each, before anything is
    /// overwritten.
    pub fn with_model(model: &Model, mut data: DataSet, mut recipe: Recipe, place: &Where) -> Result<Session> {
        let row = optim::find(&recipe.opt)?;
        recipe.validate()?;
        observing::check(&recipe)?;
        recipe.model.clone_from(&model.name);
        let (train_order, val_order) = opening::orders(&recipe, &data)?;
        let labels = Labels::settle(&mut data, &recipe, &train_order, place)?;
        let device = engine::device(&mut recipe)?;
        let source = engine::source(&data, recipe.augment());
        let graph = models::classifier(model, &source, &engine::setup(&recipe)?)?;
        let mut recorder = Recorder::new(&graph, &*device);
        let programs = engine::record(&mut recorder, &graph, &recipe)?;
        let recording = Recording::of(recorder);
        let description = device.describe();
        let isa = &device.instructions();
        let judged = if labels.noisy() { labels.judged() } else { 0 };
        memory::check_run(&*device, &recording, &programs, &recipe, &data, judged)?;
        let mut exec = Exec::new(device, recording)?;
        exec.set_dataset(TRAIN, &data.train.bytes())?;
        exec.set_dataset(TEST, &data.test.bytes())?;
        exec.set_order(TEST, &(0..data.test.count as u32).collect::<Vec<u32>>())?;
        let judge = labels.judge(&mut exec, &data, &train_order)?;

        let per_epoch = (train_order.len() / recipe.batch) as u64;
        let total = per_epoch * recipe.epochs as u64;
        let with_validation = !val_order.is_empty();
        let extras = Extras {
            validation: with_validation,
            noise: judge.is_some(),
            waited: recipe.autoaugment,
            loss_kind: !recipe.loss_kind().is_empty(),
        };
        let content = Content::of(&data);
        let about =
            opening::About { recipe: &recipe, data: &data, content: &content, isa, extras, steps_per_epoch: per_epoch };
        let subject = engine::subject(&model.name, &data, &source);
        let (mut began_with, mut told) = (None, vec![]);
        let (folder, mut records, subject, position) = match &place.resume {
            None => {
                let (vectors, init) = opening::beginning(&recipe, &graph, programs.remembered)?;
                engine::put(&mut exec, &vectors)?;
                let (folder, records) = opening::begin(&about, place, init.as_ref())?;
                told.extend(init.iter().flat_map(Init::lines));
                (folder, records, subject, Position::default())
            }
            Some(path) => {
                let resumed = opening::resume(path, &about, &graph, subject, programs.remembered)?;
                engine::put(&mut exec, &resumed.vectors)?;
                Divergence::clear(path)?;
                began_with = resumed.isa.filter(|before| before != isa);
                match place.quiet {
                    // A loss is no progress: it is named even where that is not wanted.
                    true => resumed.notes.iter().for_each(|line| crate::output::note(line)),
                    false => told.extend(resumed.notes),
                }
                (resumed.folder, resumed.records, resumed.subject, resumed.position)
            }
        };
        if !folder.last().exists() {
            labels.keep(&data, &folder)?;
        }
        let scale = if position.loss_scale > 0.0 { position.loss_scale } else { FIRST_LOSS_SCALE };
        let (good, skipped) = (position.good_steps as f32, position.skipped as f32);
        for (slot, value) in [(DROPPED, 0.0), (LOSS_SCALE, scale), (GOOD_STEPS, good), (SKIPPED, skipped)] {
            exec.set_slot(slot, value)?;
        }
        engine::set_numbers(&mut exec, &recipe)?;
        let last_step = place.steps.unwrap_or(u64::MAX).min(total);
        if recipe.tensorboard && position.step < last_step {
            records.also_for_tensorboard(&folder, position.step + 1)?;
        }
        let (a_step, an_image) = programs.flops(|id| exec.program(id).flops());
        let evaluated = data.test.count + val_order.len() + judged;
        let length = Length {
            epochs: recipe.epochs as u64,
            steps_per_epoch: per_epoch,
            batch: recipe.batch as u64,
            done: position.step,
            last: last_step,
            eval_every: recipe.eval_every as u64,
            evaluation: evaluated as f64 * an_image / a_step.max(1.0),
        };
        let mut progress = Progress::new(Style::detect(place.quiet), length);
        let parameters = graph.params().count();
        progress
            .note(&format!("{} on {}: {parameters} parameters; {} on {description}", model.name, data.name, row.name));
        let (training, held_out) = (train_order.len(), val_order.len());
        let (held_out, best) =
            if with_validation { (format!("{held_out} validation, "), VALIDATION) } else { (String::new(), "test") };
        progress
            .note(&format!("{training} training, {held_out}{} test images; best by {best} accuracy", data.test.count));
        let left_over = training as u64 - per_epoch * recipe.batch as u64;
        if left_over > 0 {
            progress.note(&format!(
                "each epoch leaves out {left_over} images that do not fill a batch, different ones each time"
            ));
        }
        data.missing_classes(&train_order).iter().for_each(|line| progress.note(line));
        labels.counts().sentences().iter().for_each(|line| progress.note(line));
        told.extend(folder.warning());
        told.iter().for_each(|line| progress.note(line));
        progress.note(&format!("folder {}", folder.path().display()));
        if position.step > 0 && position.step < last_step {
            progress.note(&format!("resuming after step {} of {total}", position.step));
        }
        if let Some(before) = began_with {
            progress
                .note(&format!("the run began on {before}, this is {isa}: bits differ from those of an unbroken run"));
        }
        let data = Arc::new(data);
        let loader = recipe.autoaugment.then(|| Loader::new(&data, &train_order, recipe.seed, recipe.epochs as u32));
        let now = Instant::now();
        let mut session = Session {
            schedule: recipe.schedule(),
            kept: position.step,
            sound: true,
            stalled: false,
            terms_dropped: 0.0,
            values: vec![],
            scalars: vec![],
            observer: None,
            observed: vec![],
            recipe,
            data,
            graph,
            exec,
            programs,
            folder,
            records,
            subject,
            content,
            position,
            loader,
            waited: 0.0,
            train_order,
            val_order,
            labels: labels.counts(),
            judge,
            judged,
            noise: None,
            per_epoch,
            total,
            before: position.step,
            last_step,
            progress,
            begun: now,
            epoch_begun: now,
        };
        if !session.folder.last().exists() {
            // So that a run which is killed in its first epoch can be resumed as well.
            session.save()?;
        }
        Ok(session)
    }

    /// Its settings, with the device and threads that they came to.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The device that it computes on.
    pub fn device(&self) -> &dyn Device {
        self.exec.device()
    }

    /// Trains to the end, or to a signal.
    ///
    /// # Errors
    /// Interrupted: a signal; saved, the message holds the line that resumes. NotFinite: the first step and call that
    /// went wrong; the last checkpoint is as before. Io and the like from writing.
    pub fn run(&mut self) -> Result<Summary> {
        let mut test = None;
        while self.position.step < self.last_step {
            let epoch = self.position.step / self.per_epoch;
            self.begin_epoch(epoch)?;
            let end = ((epoch + 1) * self.per_epoch).min(self.last_step);
            while self.position.step < end {
                self.observe_if_due()?;
                let every = self.recipe.checkpoint_steps as u64;
                // The next checkpoint's step: nothing may be under way when it is written.
                let pause = self.position.step.checked_div(every).map_or(end, |done| (done + 1) * every);
                self.steps(pause.min(end).min(self.next_observed()))?;
                // An epoch whose steps are done gets its row before a signal is heeded, or the row would be lost.
                if self.position.step == end {
                    break;
                }
                self.heed_signals()?;
                if every > 0 && self.position.step.is_multiple_of(every) {
                    self.save()?;
                }
            }
            test = None;
            if self.position.step == (epoch + 1) * self.per_epoch {
                test = self.end_epoch(epoch + 1)?;
            }
            if self.position.step < self.last_step {
                self.heed_signals()?;
                if (epoch + 1).is_multiple_of(self.recipe.checkpoint_every as u64) {
                    self.save()?;
                }
            }
        }
        let saved = self.position.step == self.before || self.save()?;
        let test = match test {
            Some(test) => test,
            None => {
                self.keep_up()?;
                self.noise = self.judge_noise()?;
                self.evaluate(TEST, self.data.test.count)?
            }
        };
        if !saved || !test.loss.is_finite() {
            return Err(self.unsound());
        }
        Ok(Summary {
            folder: self.folder.path().to_path_buf(),
            steps: self.position.step,
            total: self.total,
            before: self.before,
            epochs: self.position.step / self.per_epoch,
            test,
            noise: self.noise,
            labels: self.labels,
            best_accuracy: self.position.best_accuracy,
            best_epoch: self.position.best_epoch,
            best_on: if self.val_order.is_empty() { "test" } else { VALIDATION },
            dropped: self.position.dropped,
            seconds: self.begun.elapsed().as_secs_f64(),
            way_on: resume::way_to_train_longer(&self.recipe, self.folder.path()),
        })
    }

    /// Scores over the first `count` images in the present order of data set `dataset`.
    fn evaluate(&mut self, dataset: u32, count: usize) -> Result<Scores> {
        self.progress.evaluating(self.position.step);
        self.programs.evaluator.run(&mut self.exec, dataset, count)
    }

    /// Evaluates the model on right and wrong labels, if some are known to be wrong.
    fn judge_noise(&mut self) -> Result<Option<NoiseScores>> {
        let Some(judge) = &self.judge else { return Ok(None) };
        self.progress.evaluating(self.position.step);
        judge.scores(&mut self.exec, &self.programs.evaluator).map(Some)
    }

    /// Does the steps up to `end`, and records them. A GPU is given steps ahead of those whose results are awaited.
    fn steps(&mut self, end: u64) -> Result<()> {
        let (mut ahead, mut end) = (self.position.step, end);
        while self.position.step < end {
            while ahead < end {
                let (program, counters, slots) = self.planned(ahead);
                if ahead - self.position.step >= self.exec.depth(program) as u64 {
                    break;
                }
                self.exec.submit(program, &counters, &slots)?;
                ahead += 1;
            }
            self.finish_step()?;
            // Steps that were started must end before the run does.
            if signals::requested().is_some() {
                end = ahead;
            }
        }
        Ok(())
    }

    /// Waits for the next step that was submitted and records it.
    fn finish_step(&mut self) -> Result<()> {
        let (program, counters, slots) = self.planned(self.position.step);
        let report = self.exec.collect()?;
        let (fault, dropped) = (report.fault, report.dropped);
        self.values.clear();
        self.values.extend(report.values);
        if fault {
            return Err(self.fault(program, &counters, &slots));
        }
        let names = self.exec.program(program).reports.iter().map(|r| r.0);
        self.scalars.clear();
        self.scalars.extend(names.zip(self.values.iter().copied()));
        let value = |name: &str| self.scalars.iter().find(|v| v.0 == name).map(|v| v.1);
        let (loss, hits) = (value("loss").unwrap_or(f32::NAN), value("hits").unwrap_or(0.0) as u32);
        let grad_norm = value("grad_norm").unwrap_or(f32::NAN);
        let looked = value("sharpness_gain").is_some();
        let gain = value("sharpness_gain").unwrap_or(f32::NAN);
        let p = &mut self.position;
        p.step += 1;
        self.sound = true;
        p.loss_sum += f64::from(loss);
        p.hits += u64::from(hits);
        p.norm_sum += f64::from(grad_norm);
        // Steps that do not look have none.
        p.gain_sum += if looked { f64::from(gain) } else { 0.0 };
        // A step may have left out several terms.
        p.dropped += u64::from(dropped > self.terms_dropped);
        self.terms_dropped = dropped;
        // The rest is the optimizer's own.
        self.scalars.retain(|v| !["loss", "hits", "grad_norm"].contains(&v.0));
        self.scalars.append(&mut self.observed);
        let (epoch, lr) = (counters.epoch, slots[0].1);
        let row = StepRow { step: p.step, epoch: epoch + 1, loss, hits, lr, grad_norm, scalars: &self.scalars };
        self.records.step(&row)?;
        let done = (self.position.step - u64::from(epoch) * self.per_epoch) as f64;
        let accuracy = self.position.hits as f64 / (done * f64::from(counters.rows));
        self.progress.step(self.position.step, self.position.loss_sum / done, accuracy);
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<Checkpoint> {
        // The file's average is what is evaluated here and now.
        self.keep_up()?;
        let mut position = self.position;
        if self.exec.device().dtype() == DType::F16 {
            position.loss_scale = self.exec.slot_value(LOSS_SCALE)?;
            position.good_steps = self.exec.slot_value(GOOD_STEPS)? as u64;
            position.skipped = self.exec.slot_value(SKIPPED)? as u64;
        }
        // Time already spent in an epoch that another process will finish.
        if !position.step.is_multiple_of(self.per_epoch) {
            position.seconds += self.epoch_begun.elapsed().as_secs_f64();
        }
        Ok(Checkpoint {
            subject: self.subject.clone(),
            position,
            origin: Origin::of(&self.recipe, Some(&self.content)),
            vectors: engine::take(&mut self.exec, self.programs.remembered)?,
        })
    }
}
