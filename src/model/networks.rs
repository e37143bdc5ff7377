//! The two networks, from an image to an embedding of 128 dimensions.

use anyhow::{Result, anyhow};
use dfdx::nn::modules::{Dropout, Linear};
use dfdx::nn::tensor_collection::*;
use dfdx::nn::{BuildModule, ModuleMut};
use dfdx::prelude::*;
use rand_distr::Uniform;

use crate::nn::{
    BatchNorm, Chain, Conv, ConvBlock, Identity, NormAverage, Number, ResidualBlock, Rows, Signal, average,
    average_trained, linear, linear_taped, normalize, normalize_taped, tanh, tanh_taped,
};

/// Length of an embedding.
pub const DIMENSION: usize = 128;

pub trait Network: TensorCollection<f32, Cpu> + Clone + Send + Sync {
    /// New weights, drawn from `seed`.
    fn with_seed(seed: u64) -> Result<Self>;
    /// (batch, side, side, 3) → (batch, 128), moving the running statistics; `gradients` go onto the tape.
    fn train(&mut self, images: Signal, gradients: Gradients<f32, Cpu>) -> Result<Rows<DIMENSION>>;
    /// The same by the running statistics.
    fn infer(&self, images: Signal) -> Vec<f32>;
}

fn on_tape(error: CpuError) -> anyhow::Error {
    anyhow!("dfdx: {error}")
}

/// The original project's network: 160,064 parameters with the running statistics.
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

/// Glorot and Bengio 2010, section 4.2.1: what the original's framework draws by default.
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

    fn train(&mut self, images: Signal, gradients: Gradients<f32, Cpu>) -> Result<Rows<DIMENSION>> {
        let mut chain = Chain::default();
        let x = self.block1.train("block1", &images, &mut chain)?; // (batch, 32, 32, 32)
        let x = self.block2.train("block2", &x, &mut chain)?; // (batch, 16, 16, 64)
        let x = self.block3.train("block3", &x, &mut chain)?; // (batch, 16, 16, 128)
        let x = average_trained(&x, &mut chain); // (batch, 1, 1, 128)
        let head = || -> Result<Rows<DIMENSION>, CpuError> {
            let x = linear_taped(&self.hidden, chain.record(self.hidden.weight.device(), x, gradients)?)?;
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

/// The default: stem, three pre-activation blocks, global average, linear, length 1.
#[derive(Clone)]
pub struct ResidualNetwork<S2, S3, E: Dtype, D: Storage<E>> {
    pub stem: Conv<3, 32, 3, E, D>,
    pub block1: ResidualBlock<32, 32, true, Identity, E, D>,
    pub block2: ResidualBlock<32, 64, true, S2, E, D>,
    pub block3: ResidualBlock<64, 128, false, S3, E, D>,
    pub average: NormAverage<128, E, D>,
    pub output: Linear<128, DIMENSION, E, D>,
}

pub type Residual = ResidualNetwork<Conv<32, 64, 1, f32, Cpu>, Conv<64, 128, 1, f32, Cpu>, f32, Cpu>;

impl<S2: TensorCollection<E, D>, S3: TensorCollection<E, D>, E: Number, D: Device<E>> TensorCollection<E, D>
    for ResidualNetwork<S2, S3, E, D>
{
    type To<E2: Dtype, D2: Device<E2>> = ResidualNetwork<S2::To<E2, D2>, S3::To<E2, D2>, E2, D2>;

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

impl Network for Residual {
    fn with_seed(seed: u64) -> Result<Self> {
        Self::try_build(&Cpu::seed_from_u64(seed)).map_err(on_tape)
    }

    fn train(&mut self, images: Signal, gradients: Gradients<f32, Cpu>) -> Result<Rows<DIMENSION>> {
        let mut chain = Chain::default();
        let x = self.stem.train("stem", &images, &mut chain)?; // (batch, side, side, 32)
        let x = self.block1.train("block1", &x, &mut chain)?; // (batch, side/2, side/2, 32)
        let x = self.block2.train("block2", &x, &mut chain)?; // (batch, side/4, side/4, 64)
        let x = self.block3.train("block3", &x, &mut chain)?; // (batch, side/4, side/4, 128)
        let x = self.average.train(&x, &mut chain)?; // (batch, 1, 1, 128)
        let device = self.output.weight.device();
        let head = || normalize_taped(linear_taped(&self.output, chain.record(device, x, gradients)?)?);
        head().map_err(on_tape)
    }

    fn infer(&self, images: Signal) -> Vec<f32> {
        let x = self.block1.infer(&self.stem.infer(&images));
        let x = self.average.infer(&self.block3.infer(&self.block2.infer(&x)));
        let mut embeddings = linear(&self.output, &x.values);
        normalize(&mut embeddings, DIMENSION);
        embeddings
    }
}

/// All parameters, running statistics included.
pub fn parameter_count<N: Network>(network: &N) -> usize {
    struct Count(usize);
    impl TensorVisitor<f32, Cpu> for Count {
        type Viewer = ViewTensorRef;
        type Err = CpuError;
        type E2 = f32;
        type D2 = Cpu;

        fn visit<S: Shape>(
            &mut self,
            _: TensorOptions<S, f32, Cpu>,
            tensor: &Tensor<S, f32, Cpu>,
        ) -> Result<Option<Tensor<S, f32, Cpu>>, CpuError> {
            self.0 += tensor.shape().num_elements();
            Ok(None)
        }
    }
    let mut count = Count(0);
    // Counting cannot fail.
    let _ = N::iter_tensors(&mut RecursiveWalker { m: network, f: &mut count });
    count.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::FeatureMap;

    #[test]
    fn the_original_has_its_parameters() {
        assert_eq!(parameter_count(&Original::with_seed(1).unwrap()), 160_064);
    }

    #[test]
    fn embeddings_have_length_one_and_do_not_depend_on_the_batch() {
        let network = Residual::with_seed(1).unwrap();
        let pixels: Vec<f32> = (0..2 * 16 * 16 * 3).map(|i| ((i * 37 % 101) as f32) / 50.0 - 1.0).collect();
        let both = network.infer(FeatureMap::new((2, 16, 16, 3), pixels.clone()).into());
        let one = network.infer(FeatureMap::new((1, 16, 16, 3), pixels[16 * 16 * 3..].to_vec()).into());
        assert_eq!(both.len(), 2 * DIMENSION);
        let length: f32 = one.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
        assert_eq!(both[DIMENSION..], one);
    }
}
