//! The networks, which turn an image into an embedding of 128 dimensions.

use ::safetensors::SafeTensors;
use ::safetensors::tensor::Dtype as Kind;
use anyhow::{Result, anyhow, ensure};
use dfdx::nn::modules::{Dropout, Linear};
use dfdx::nn::tensor_collection::*;
use dfdx::nn::{BuildModule, ModuleMut};
use dfdx::prelude::*;
use rand_distr::Uniform;

use crate::learning::nn::tape::values;
use crate::learning::nn::{
    BatchNorm, Chain, Conv, ConvBlock, Identity, NormAverage, Number, ResidualBlock, Rows, Signal, average,
    average_trained, linear, linear_taped, tanh, tanh_taped,
};

/// Length of an embedding.
pub const DIMENSION: usize = 128;

pub trait Network: TensorCollection<f32, Cpu> + Clone + Send + Sync {
    /// Builds a network with weights drawn from `seed`.
    fn with_seed(seed: u64) -> Result<Self>;
    /// Maps (batch, side, side, 3) to (batch, 128) and updates the running statistics. The tape starts with
    /// `gradients`. Dropout draws from `device`.
    fn train(&mut self, images: Signal, gradients: Gradients<f32, Cpu>, device: &Cpu) -> Result<Rows<DIMENSION>>;
    /// Maps (batch, side, side, 3) to (batch, 128) with the running statistics.
    fn infer(&self, images: Signal) -> Vec<f32>;
}

fn on_tape(error: CpuError) -> anyhow::Error {
    anyhow!("dfdx: {error}")
}

/// The original project's network. It has 160,064 parameters, including the running statistics.
#[derive(Clone)]
pub struct OriginalNetwork<E: Dtype, D: Storage<E>> {
    pub block1: ConvBlock<3, 32, true, E, D>,
    pub block2: ConvBlock<32, 64, true, E, D>,
    pub block3: ConvBlock<64, 128, false, E, D>,
    pub hidden: Linear<128, 256, E, D>,
    pub dropout: Dropout,
    pub output: Linear<256, DIMENSION, E, D>,
}

pub type Original = OriginalNetwork<f32, Cpu>;

impl<E: Number, D: Device<E>> TensorCollection<E, D> for OriginalNetwork<E, D> {
    type To<E2: Dtype, D2: Device<E2>> = OriginalNetwork<E2, D2>;

    fn iter_tensors<V: ModuleVisitor<Self, E, D>>(visitor: &mut V) -> Result<Option<Self::To<V::E2, V::D2>>, V::Err> {
        visitor.visit_fields(
            (
                Self::module("block1", |s| &s.block1, |s| &mut s.block1),
                Self::module("block2", |s| &s.block2, |s| &mut s.block2),
                Self::module("block3", |s| &s.block3, |s| &mut s.block3),
                Self::module("hidden", |s| &s.hidden, |s| &mut s.hidden),
                Self::module("output", |s| &s.output, |s| &mut s.output),
            ),
            |(block1, block2, block3, hidden, output)| {
                let dropout = Dropout { p: 0.3 };
                OriginalNetwork { block1, block2, block3, hidden, dropout, output }
            },
        )
    }
}

/// Draws weights as in Glorot and Bengio 2010, section 4.2.1, which is the default of the original's framework.
fn glorot<S: ConstShape>(tensor: &mut Tensor<S, f32, Cpu>, inputs: usize, outputs: usize) {
    let bound = (6.0 / (inputs + outputs) as f32).sqrt();
    tensor.fill_with_distr(Uniform::new(-bound, bound));
}

fn as_in_the_original<const I: usize, const O: usize, const POOL: bool>(block: &mut ConvBlock<I, O, POOL, f32, Cpu>) {
    glorot(&mut block.conv.weight, 9 * I, 9 * O);
    let norm: &mut BatchNorm<O, f32, Cpu> = &mut block.norm;
    (norm.momentum, norm.epsilon) = (0.99, 1e-3);
}

impl Network for Original {
    fn with_seed(seed: u64) -> Result<Self> {
        let mut network = Self::try_build(&Cpu::seed_from_u64(seed)).map_err(on_tape)?;
        as_in_the_original(&mut network.block1);
        as_in_the_original(&mut network.block2);
        as_in_the_original(&mut network.block3);
        glorot(&mut network.hidden.weight, 128, 256);
        glorot(&mut network.output.weight, 256, DIMENSION);
        network.hidden.bias.fill_with_zeros();
        network.output.bias.fill_with_zeros();
        Ok(network)
    }

    fn train(&mut self, images: Signal, gradients: Gradients<f32, Cpu>, device: &Cpu) -> Result<Rows<DIMENSION>> {
        let mut chain = Chain::default();
        let x = self.block1.train("block1", &images, &mut chain)?; // (batch, 32, 32, 32)
        let x = self.block2.train("block2", &x, &mut chain)?; // (batch, 16, 16, 64)
        let x = self.block3.train("block3", &x, &mut chain)?; // (batch, 16, 16, 128)
        let x = average_trained(&x, &mut chain); // (batch, 1, 1, 128)
        let head = || -> Result<Rows<DIMENSION>, CpuError> {
            let x = linear_taped(&self.hidden, chain.record(device, x, gradients)?)?;
            let x = x.try_relu()?; // (batch, 256)
            let x = self.dropout.try_forward_mut(x)?;
            tanh_taped(linear_taped(&self.output, x)?) // (batch, 128)
        };
        head().map_err(on_tape)
    }

    fn infer(&self, images: Signal) -> Vec<f32> {
        let x = self.block2.infer(&self.block1.infer(&images));
        let mut x = linear(&self.hidden, &average(&self.block3.infer(&x)).values);
        x.iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x });
        let mut embeddings = linear(&self.output, &x);
        tanh(&mut embeddings);
        embeddings
    }
}

/// The default network: a stem, three pre-activation blocks of `A`, `B` and `C` channels, a global average and a linear
/// layer.
#[derive(Clone)]
pub struct ResidualNetwork<const A: usize, const B: usize, const C: usize, S2, S3, E: Dtype, D: Storage<E>> {
    pub stem: Conv<3, A, 3, E, D>,
    pub block1: ResidualBlock<A, A, true, Identity, E, D>,
    pub block2: ResidualBlock<A, B, true, S2, E, D>,
    pub block3: ResidualBlock<B, C, false, S3, E, D>,
    pub average: NormAverage<C, E, D>,
    pub output: Linear<C, DIMENSION, E, D>,
}

type OfWidths<const A: usize, const B: usize, const C: usize> =
    ResidualNetwork<A, B, C, Conv<A, B, 1, f32, Cpu>, Conv<B, C, 1, f32, Cpu>, f32, Cpu>;
pub type Residual = OfWidths<32, 64, 128>;
pub type Residual48 = OfWidths<48, 96, 192>;
pub type Residual64 = OfWidths<64, 128, 256>;

impl<const A: usize, const B: usize, const C: usize, S2, S3, E, D> TensorCollection<E, D>
    for ResidualNetwork<A, B, C, S2, S3, E, D>
where
    S2: TensorCollection<E, D>,
    S3: TensorCollection<E, D>,
    E: Number,
    D: Device<E>,
{
    type To<E2: Dtype, D2: Device<E2>> = ResidualNetwork<A, B, C, S2::To<E2, D2>, S3::To<E2, D2>, E2, D2>;

    fn iter_tensors<V: ModuleVisitor<Self, E, D>>(visitor: &mut V) -> Result<Option<Self::To<V::E2, V::D2>>, V::Err> {
        visitor.visit_fields(
            (
                Self::module("stem", |s| &s.stem, |s| &mut s.stem),
                Self::module("block1", |s| &s.block1, |s| &mut s.block1),
                Self::module("block2", |s| &s.block2, |s| &mut s.block2),
                Self::module("block3", |s| &s.block3, |s| &mut s.block3),
                Self::module("average", |s| &s.average, |s| &mut s.average),
                Self::module("output", |s| &s.output, |s| &mut s.output),
            ),
            |(stem, block1, block2, block3, average, output)| ResidualNetwork {
                stem,
                block1,
                block2,
                block3,
                average,
                output,
            },
        )
    }
}

impl<const A: usize, const B: usize, const C: usize> Network for OfWidths<A, B, C> {
    fn with_seed(seed: u64) -> Result<Self> {
        Self::try_build(&Cpu::seed_from_u64(seed)).map_err(on_tape)
    }

    fn train(&mut self, images: Signal, gradients: Gradients<f32, Cpu>, device: &Cpu) -> Result<Rows<DIMENSION>> {
        let mut chain = Chain::default();
        let x = self.stem.train("stem", &images, &mut chain)?; // (batch, side, side, A)
        let x = self.block1.train("block1", &x, &mut chain)?; // (batch, side/2, side/2, A)
        let x = self.block2.train("block2", &x, &mut chain)?; // (batch, side/4, side/4, B)
        let x = self.block3.train("block3", &x, &mut chain)?; // (batch, side/4, side/4, C)
        let x = self.average.train(&x, &mut chain)?; // (batch, 1, 1, C)
        chain.record(device, x, gradients).and_then(|x| linear_taped(&self.output, x)).map_err(on_tape)
    }

    fn infer(&self, images: Signal) -> Vec<f32> {
        let x = self.block1.infer(&self.stem.infer(&images));
        let x = self.average.infer(&self.block3.infer(&self.block2.infer(&x)));
        linear(&self.output, &x.values)
    }
}

/// Like [`ResidualNetwork`], with a fourth block. It works at an eighth of the side and has as many channels as the
/// third. This network is for tens of thousands of pictures.
#[derive(Clone)]
pub struct DeepNetwork<const A: usize, const B: usize, const C: usize, S2, S3, E: Dtype, D: Storage<E>> {
    pub stem: Conv<3, A, 3, E, D>,
    /// All blocks are one field, because dfdx visits at most six fields.
    #[allow(clippy::type_complexity)]
    pub blocks: (
        ResidualBlock<A, A, true, Identity, E, D>,
        ResidualBlock<A, B, true, S2, E, D>,
        ResidualBlock<B, C, true, S3, E, D>,
        ResidualBlock<C, C, false, Identity, E, D>,
    ),
    pub average: NormAverage<C, E, D>,
    pub output: Linear<C, DIMENSION, E, D>,
}

type DeepOfWidths<const A: usize, const B: usize, const C: usize> =
    DeepNetwork<A, B, C, Conv<A, B, 1, f32, Cpu>, Conv<B, C, 1, f32, Cpu>, f32, Cpu>;
pub type ResidualDeep = DeepOfWidths<64, 128, 256>;

impl<const A: usize, const B: usize, const C: usize, S2, S3, E, D> TensorCollection<E, D>
    for DeepNetwork<A, B, C, S2, S3, E, D>
where
    S2: TensorCollection<E, D>,
    S3: TensorCollection<E, D>,
    E: Number,
    D: Device<E>,
{
    type To<E2: Dtype, D2: Device<E2>> = DeepNetwork<A, B, C, S2::To<E2, D2>, S3::To<E2, D2>, E2, D2>;

    fn iter_tensors<V: ModuleVisitor<Self, E, D>>(visitor: &mut V) -> Result<Option<Self::To<V::E2, V::D2>>, V::Err> {
        visitor.visit_fields(
            (
                Self::module("stem", |s| &s.stem, |s| &mut s.stem),
                Self::module("blocks", |s| &s.blocks, |s| &mut s.blocks),
                Self::module("average", |s| &s.average, |s| &mut s.average),
                Self::module("output", |s| &s.output, |s| &mut s.output),
            ),
            |(stem, blocks, average, output)| DeepNetwork { stem, blocks, average, output },
        )
    }
}

impl<const A: usize, const B: usize, const C: usize> Network for DeepOfWidths<A, B, C> {
    fn with_seed(seed: u64) -> Result<Self> {
        Self::try_build(&Cpu::seed_from_u64(seed)).map_err(on_tape)
    }

    fn train(&mut self, images: Signal, gradients: Gradients<f32, Cpu>, device: &Cpu) -> Result<Rows<DIMENSION>> {
        let mut chain = Chain::default();
        let x = self.stem.train("stem", &images, &mut chain)?; // (batch, side, side, A)
        let x = self.blocks.0.train("block1", &x, &mut chain)?; // (batch, side/2, side/2, A)
        let x = self.blocks.1.train("block2", &x, &mut chain)?; // (batch, side/4, side/4, B)
        let x = self.blocks.2.train("block3", &x, &mut chain)?; // (batch, side/8, side/8, C)
        let x = self.blocks.3.train("block4", &x, &mut chain)?; // (batch, side/8, side/8, C)
        let x = self.average.train(&x, &mut chain)?; // (batch, 1, 1, C)
        chain.record(device, x, gradients).and_then(|x| linear_taped(&self.output, x)).map_err(on_tape)
    }

    fn infer(&self, images: Signal) -> Vec<f32> {
        let x = self.blocks.1.infer(&self.blocks.0.infer(&self.stem.infer(&images)));
        let x = self.average.infer(&self.blocks.3.infer(&self.blocks.2.infer(&x)));
        linear(&self.output, &x.values)
    }
}

/// Returns the values of all parameters in order, including the running statistics.
pub fn parameters<N: Network>(network: &N) -> Vec<f32> {
    struct Gather(Vec<f32>);
    impl TensorVisitor<f32, Cpu> for Gather {
        type Viewer = ViewTensorRef;
        type Err = CpuError;
        type E2 = f32;
        type D2 = Cpu;

        fn visit<S: Shape>(
            &mut self,
            _: TensorOptions<S, f32, Cpu>,
            tensor: &Tensor<S, f32, Cpu>,
        ) -> Result<Option<Tensor<S, f32, Cpu>>, CpuError> {
            self.0.extend(values(tensor));
            Ok(None)
        }
    }
    let mut gather = Gather(Vec::new());
    // Reading cannot fail.
    let _ = N::iter_tensors(&mut RecursiveWalker { m: network, f: &mut gather });
    gather.0
}

/// Loads parameters from safetensors that dfdx wrote.
///
/// # Errors
/// If a tensor is missing, or its type or shape is not the network's. dfdx itself copies without a check.
pub fn load_parameters<N: Network>(network: &mut N, bytes: &[u8]) -> Result<(), String> {
    struct Check<'a>(&'a SafeTensors<'a>, Option<String>);
    impl Check<'_> {
        fn compare(&mut self, name: &str, kind: Kind, shape: &[usize]) {
            let wrong = match self.0.tensor(name) {
                Err(_) => format!("it has no tensor {name}"),
                Ok(it) if (it.dtype(), it.shape()) != (kind, shape) => {
                    format!(
                        "tensor {name} is {:?} of {:?}, and should be {kind:?} of {shape:?}",
                        it.dtype(),
                        it.shape()
                    )
                }
                Ok(_) => return,
            };
            self.1.get_or_insert(wrong);
        }
    }
    impl TensorVisitor<f32, Cpu> for Check<'_> {
        type Viewer = (ViewTensorRef, ViewTensorName);
        type Err = CpuError;
        type E2 = f32;
        type D2 = Cpu;

        fn visit<S: Shape>(
            &mut self,
            _: TensorOptions<S, f32, Cpu>,
            (tensor, name): (&Tensor<S, f32, Cpu>, String),
        ) -> Result<Option<Tensor<S, f32, Cpu>>, CpuError> {
            let shape: Vec<usize> = tensor.shape().concrete().into();
            self.compare(&name, Kind::F32, &shape);
            Ok(None)
        }

        fn visit_scalar<T: num_traits::NumCast>(
            &mut self,
            _: ScalarOptions<T>,
            (_, name): (&T, String),
        ) -> Result<Option<T>, CpuError> {
            self.compare(&name, Kind::F64, &[]);
            Ok(None)
        }
    }
    let mut tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let mut check = Check(&tensors, None);
    let m = (&*network, String::new());
    N::iter_tensors(&mut RecursiveWalker { m, f: &mut check }).map_err(|error| error.to_string())?;
    if let Some(wrong) = check.1 {
        return Err(wrong);
    }
    let m = (network, String::new());
    N::iter_tensors(&mut RecursiveWalker { m, f: &mut tensors }).map_err(|error| format!("{error:?}"))?;
    Ok(())
}

/// Sets all parameters to values that [`parameters`] returned.
pub fn set_parameters<N: Network>(network: &mut N, values: &[f32]) -> Result<()> {
    struct Spread<'a>(&'a [f32]);
    impl TensorVisitor<f32, Cpu> for Spread<'_> {
        type Viewer = ViewTensorMut;
        type Err = CpuError;
        type E2 = f32;
        type D2 = Cpu;

        fn visit<S: Shape>(
            &mut self,
            _: TensorOptions<S, f32, Cpu>,
            tensor: &mut Tensor<S, f32, Cpu>,
        ) -> Result<Option<Tensor<S, f32, Cpu>>, CpuError> {
            let (these, rest) = self.0.split_at(tensor.shape().num_elements());
            tensor.copy_from(these);
            self.0 = rest;
            Ok(None)
        }
    }
    ensure!(values.len() == parameters(network).len(), "{} values do not fit this network", values.len());
    N::iter_tensors(&mut RecursiveWalker { m: network, f: &mut Spread(values) }).map_err(on_tape)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_has_its_parameters() {
        assert_eq!(parameters(&Original::with_seed(1).unwrap()).len(), 160_064);
    }

    #[test]
    fn parameters_move_from_one_network_to_another() {
        let (one, mut two) = (Residual::with_seed(1).unwrap(), Residual::with_seed(2).unwrap());
        assert_ne!(parameters(&one), parameters(&two));
        set_parameters(&mut two, &parameters(&one)).unwrap();
        assert_eq!(parameters(&one), parameters(&two));
        assert!(set_parameters(&mut two, &[1.0]).is_err());
    }
}
