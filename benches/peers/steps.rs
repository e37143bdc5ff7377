//! Our side of the comparison with other frameworks: reads commands from standard input, one a line, and answers
//! each with one line.
//!
//! Start it as `steps NETWORK BATCH`. The commands are `train STEPS` and `infer BATCHES`, which answer with
//! seconds, and `dump FILE`, which writes weights, images, embeddings and all gradients of one step without dropout
//! as safetensors.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::time::Instant;

use ::safetensors::serialize_to_file;
use ::safetensors::tensor::{Dtype as Kind, SafeTensorError, TensorView};
use anyhow::{Context, Result, anyhow, bail};
use dfdx::nn::ZeroGrads;
use dfdx::nn::tensor_collection::*;
use dfdx::prelude::*;
use similiai::learning::model::{DIMENSION, Network, NetworkName, Original, Residual};
use similiai::learning::nn::tape::{self, Loss};
use similiai::learning::nn::{AdamW, FeatureMap, Rows, Signal, Triplets, normalize_taped, triplet_loss};

const MARGIN: f64 = 0.3;
const RATE: f64 = 1e-3;

fn main() -> Result<()> {
    // `cargo bench` adds its own argument.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let (network, batch, dropout) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [network, batch] => (network, batch, true),
        [network, batch, "--no-dropout"] => (network, batch, false),
        _ => {
            println!("usage: steps original|residual BATCH [--no-dropout], then commands on standard input");
            return Ok(());
        }
    };
    let batch: usize = batch.parse().context("the batch must be a number")?;
    match network {
        "original" => {
            let mut network = Original::with_seed(1)?;
            network.dropout.p = if dropout { network.dropout.p } else { 0.0 };
            serve(network, NetworkName::Original, batch)
        }
        "residual" => serve(Residual::with_seed(1)?, NetworkName::Residual, batch),
        other => bail!("unknown network {other}"),
    }
}

/// Pseudorandom values from 0 to 1, like those of images.
fn images(count: usize, side: usize) -> Vec<f32> {
    let value = |place: usize| ((place as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32;
    (0..count * side * side * 3).map(value).collect()
}

/// Computes the loss of embeddings. `normalize` scales them to length 1, for the residual network.
struct Losses {
    triplets: Triplets,
    normalize: bool,
}

impl Losses {
    fn of(&self, embeddings: Rows<DIMENSION>) -> Result<(Loss, Vec<f32>)> {
        let embeddings = if self.normalize { normalize_taped(embeddings) } else { Ok(embeddings) };
        let judge = |points: &[f32]| {
            let found = triplet_loss(points, DIMENSION, &self.triplets, MARGIN);
            (found.loss, found.gradient, points.to_vec())
        };
        embeddings.and_then(|embeddings| tape::loss(embeddings, judge)).map_err(dfdx_said)
    }
}

fn serve<N: Network>(mut network: N, name: NetworkName, batch: usize) -> Result<()> {
    let side = name.preprocessing().side;
    let losses = match name {
        NetworkName::Original => Losses { triplets: Triplets::Given, normalize: false },
        _ => {
            let labels = (0..batch).map(|image| (image * 10 / batch) as u8).collect();
            Losses { triplets: Triplets::All(labels), normalize: true }
        }
    };
    let values = images(batch, side);
    let images = Signal::from(FeatureMap::new((batch, side, side, 3), values.clone()));
    let mut optimizer = AdamW::new(0.0);
    let device = Cpu::seed_from_u64(1);
    let mut gradients = network.try_alloc_grads().map_err(dfdx_said)?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let start = Instant::now();
        match line.split_once(' ').context("a command and its argument")? {
            ("train", steps) => {
                for _ in 0..steps.parse::<usize>()? {
                    let (loss, _) = losses.of(network.train(images.clone(), gradients, &device)?)?;
                    gradients = loss.try_backward().map_err(dfdx_said)?;
                    optimizer.update(&mut network, &mut gradients, None, RATE).map_err(dfdx_said)?;
                    network.try_zero_grads(&mut gradients).map_err(dfdx_said)?;
                }
            }
            ("infer", batches) => {
                for _ in 0..batches.parse::<usize>()? {
                    network.infer(images.clone());
                }
            }
            ("dump", file) => {
                dump(&network, images.clone(), (vec![batch, side, side, 3], values.clone()), &losses, file)?
            }
            (other, _) => bail!("unknown command {other}"),
        }
        println!("{}", start.elapsed().as_secs_f64());
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn dfdx_said(error: CpuError) -> anyhow::Error {
    anyhow!("dfdx: {error}")
}

/// The tensors of one step, from which Python computes the same step.
struct Dump<'a> {
    gradients: &'a Gradients<f32, Cpu>,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl TensorVisitor<f32, Cpu> for Dump<'_> {
    type Viewer = (ViewTensorRef, ViewTensorName);
    type Err = CpuError;
    type E2 = f32;
    type D2 = Cpu;

    fn visit<S: Shape>(
        &mut self,
        options: TensorOptions<S, f32, Cpu>,
        (tensor, name): (&Tensor<S, f32, Cpu>, String),
    ) -> Result<Option<Tensor<S, f32, Cpu>>, CpuError> {
        let shape: Vec<usize> = tensor.shape().concrete().into();
        if options.do_gradient_update {
            self.tensors.insert(format!("gradient.{name}"), (shape.clone(), self.gradients.get(tensor).as_vec()));
        }
        self.tensors.insert(name, (shape, tensor.as_vec()));
        Ok(None)
    }
}

fn dump<N: Network>(
    network: &N,
    images: Signal,
    (shape, values): (Vec<usize>, Vec<f32>),
    losses: &Losses,
    file: &str,
) -> Result<()> {
    let gradients = network.try_alloc_grads().map_err(dfdx_said)?;
    let (loss, points) = losses.of(network.clone().train(images, gradients, &Cpu::seed_from_u64(1))?)?;
    let gradients = loss.try_backward().map_err(dfdx_said)?;
    let mut dump = Dump { gradients: &gradients, tensors: BTreeMap::new() };
    N::iter_tensors(&mut RecursiveWalker { m: (network, String::new()), f: &mut dump }).map_err(dfdx_said)?;
    dump.tensors.insert("images".to_owned(), (shape, values));
    dump.tensors.insert("embeddings".to_owned(), (vec![points.len() / DIMENSION, DIMENSION], points));
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = dump
        .tensors
        .into_iter()
        .map(|(name, (shape, values))| (name, shape, values.into_iter().flat_map(f32::to_le_bytes).collect()))
        .collect();
    let views =
        tensors.iter().map(|(name, shape, bytes)| Ok((name, TensorView::new(Kind::F32, shape.clone(), bytes)?)));
    let views = views.collect::<Result<Vec<_>, SafeTensorError>>().map_err(|error| anyhow!("{error}"))?;
    serialize_to_file(views, &None, file.as_ref()).map_err(|error| anyhow!("{error}"))
}
