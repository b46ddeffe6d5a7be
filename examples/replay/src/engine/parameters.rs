//! What an engine can do, and where the numbers come from.
//!
//! # The time of a step
//!
//! ```text
//! t = step + prompts · prompt + max(tokens · token, weights) + pairs · pair + context · context_token
//!
//! prompts   requests whose prefill begins in this step
//! tokens    tokens computed: chunks of prompts, and one for each request that generates
//! pairs     token of a prompt × token before it: attention of the prefill
//! context   tokens whose keys and values are read for those that generate
//! ```
//!
//! A roofline: computing and reading the weights overlap, so that the longer one counts (Williams, Waterman and
//! Patterson, "Roofline", 2009).
//!
//! # Where the presets come from
//!
//! The data sheets give peak rates; the model is, but for the last preset, Llama-3.1-8B in 16 bits (8.03 · 10⁹ parameters, 16.06 GB, 32 layers of
//! 4096, 8 KV heads of 128: 131 072 bytes of KV per token; its `config.json`). The rest is an **estimate**, not a
//! measurement: half of the peak FLOP/s in prefill and 0.8 of the peak bandwidth (v6e: 0.35 and 0.6, for the four chips
//! exchange activations), 2 ms of overhead per step, a KV cache of 0.9 · memory − weights − 4 GB.
//!
//! | preset | peak FLOP/s, 16 bits | bandwidth | memory | source |
//! |---|---|---|---|---|
//! | `h100` | 989 · 10¹² | 3.35 TB/s | 80 GB | NVIDIA H100 data sheet, SXM, dense |
//! | `4xh100-70b` | 4 · 989 · 10¹² | 4 · 3.35 TB/s | 4 · 80 GB | the same, with Llama-3.1-70B (70.6 · 10⁹ parameters, 80 layers of 8192, 327 680 bytes of KV per token) |
//! | `a100` | 312 · 10¹² | 2.039 TB/s | 80 GB | NVIDIA A100 data sheet, SXM, dense |
//! | `v6e-4` | 4 · 918 · 10¹² | 4 · 1.64 TB/s | 4 · 32 GB | Google Cloud, "TPU v6e" |
//! | `t4` | – | – | 16 GB | see below |
//!
//! `t4` serves a model of about 1.2 · 10⁹ parameters, which is what fits. It is [calibrated](Calibration): 280 ms for a
//! prompt of 1500 tokens, 110 ms when its 93 whole blocks of 16 are cached, 15 ms per generated token. The estimate as
//! above (65 · 10¹² FLOP/s, 0.35 of it, 2.48 · 10⁹ FLOP per token) gives 9 200 tokens/s, the calibration 8 750.

use serde::Serialize;

use crate::Error;

/// Names of all presets.
pub const PRESETS: [&str; 5] = ["t4", "v6e-4", "a100", "h100", "4xh100-70b"];

/// How long an engine takes; all in seconds. See the module for the formula.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Timing {
    /// Of every step, whatever it computes.
    pub step: f64,
    /// Of every prompt whose prefill begins.
    pub prompt: f64,
    /// Of every computed token.
    pub token: f64,
    /// To read the weights once; overlaps with computing.
    pub weights: f64,
    /// Of every pair of a prompt's token and one before it.
    pub pair: f64,
    /// Of every token whose keys and values are read.
    pub context_token: f64,
}

/// One engine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EngineParameters {
    /// Name of the preset that it comes from.
    pub name: String,
    /// How long things take.
    pub timing: Timing,
    /// Tokens that fit into the KV cache.
    pub cache_tokens: u64,
    /// Blocks of the KV cache, in place of `cache_tokens`.
    pub cache_blocks: Option<usize>,
    /// Tokens that one step computes at most (vLLM: `max_num_batched_tokens`).
    pub step_tokens: u32,
    /// Requests that run at once (vLLM: `max_num_seqs`).
    pub max_running: usize,
    /// Adapters that can be loaded at once; 0 if the engine serves none.
    pub max_adapters: usize,
    /// Seconds that loading an adapter takes, during which the engine computes nothing.
    pub adapter_load: f64,
}

/// A dense transformer in 16 bits.
struct Model {
    parameters: f64,
    bytes: f64,
    /// FLOP of a prompt's token for each token before it: 4 · layers · width.
    pair_flop: f64,
    kv_bytes_per_token: f64,
}

const LLAMA_8B: Model = Model {
    parameters: 8.03e9,
    bytes: 16.06e9,
    pair_flop: 4.0 * 32.0 * 4096.0,
    kv_bytes_per_token: 131_072.0,
};

const LLAMA_70B: Model = Model {
    parameters: 70.6e9,
    bytes: 141.2e9,
    pair_flop: 4.0 * 80.0 * 8192.0,
    kv_bytes_per_token: 327_680.0,
};

/// What a data sheet says, and how much of it is reached.
struct Accelerator {
    flops: f64,
    flops_share: f64,
    bandwidth: f64,
    bandwidth_share: f64,
    memory: f64,
}

impl EngineParameters {
    /// The parameters of a preset.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] lists the presets if there is none of this name.
    ///
    /// # Example
    ///
    /// ```
    /// use p3sched_replay::engine::EngineParameters;
    ///
    /// let a100 = EngineParameters::preset("a100")?;
    /// let tokens_per_second = 1.0 / a100.timing.token;
    /// assert!((9_000.0..10_500.0).contains(&tokens_per_second));
    /// # Ok::<(), p3sched_replay::Error>(())
    /// ```
    pub fn preset(name: &str) -> Result<Self, Error> {
        let accelerator = |flops, bandwidth, memory| Accelerator {
            flops,
            flops_share: 0.5,
            bandwidth,
            bandwidth_share: 0.8,
            memory,
        };
        match name {
            "h100" => Ok(Self::estimated(name, &accelerator(989e12, 3.35e12, 80e9), &LLAMA_8B, 8192)),
            "4xh100-70b" => {
                let node = accelerator(4.0 * 989e12, 4.0 * 3.35e12, 4.0 * 80e9);
                Ok(Self::estimated(name, &node, &LLAMA_70B, 8192))
            }
            "a100" => Ok(Self::estimated(name, &accelerator(312e12, 2.039e12, 80e9), &LLAMA_8B, 2048)),
            "v6e-4" => {
                let chips = accelerator(4.0 * 918e12, 4.0 * 1.64e12, 4.0 * 32e9);
                let chips = Accelerator { flops_share: 0.35, bandwidth_share: 0.6, ..chips };
                Ok(Self::estimated(name, &chips, &LLAMA_8B, 8192))
            }
            "t4" => Ok(Self::t4()),
            unknown => Err(Error::unknown("engine", unknown, &PRESETS)),
        }
    }

    fn estimated(name: &str, accelerator: &Accelerator, model: &Model, step_tokens: u32) -> Self {
        let Model { parameters, bytes, pair_flop, kv_bytes_per_token } = *model;
        let flops = accelerator.flops * accelerator.flops_share;
        let bandwidth = accelerator.bandwidth * accelerator.bandwidth_share;
        let timing = Timing {
            step: 0.002,
            prompt: 0.0,
            token: 2.0 * parameters / flops,
            weights: bytes / bandwidth,
            pair: pair_flop / flops,
            context_token: kv_bytes_per_token / bandwidth,
        };
        Self {
            name: name.to_owned(),
            timing,
            cache_tokens: ((0.9 * accelerator.memory - bytes - 4e9) / kv_bytes_per_token) as u64,
            cache_blocks: None,
            step_tokens,
            max_running: 256,
            max_adapters: 4,
            adapter_load: 0.5,
        }
    }

    fn t4() -> Self {
        let calibration = Calibration {
            prompt_tokens: 1500,
            cached_tokens: 93 * 16,
            cold_seconds: 0.280,
            cached_seconds: 0.110,
            token_seconds: 0.015,
        };
        Self {
            name: "t4".to_owned(),
            timing: calibration.timing(),
            // 16 GB less weights of 2.5 GB and 4 GB, at 32 768 bytes per token (16 layers, 8 KV heads of 64).
            cache_tokens: 240_000,
            cache_blocks: None,
            step_tokens: 2048,
            max_running: 64,
            max_adapters: 2,
            adapter_load: 1.0,
        }
    }

    /// Blocks of the KV cache.
    pub fn blocks(&self, block_tokens: u32) -> usize {
        self.cache_blocks.unwrap_or((self.cache_tokens / u64::from(block_tokens.max(1))) as usize)
    }
}

/// Two measurements of one prompt on an idle engine, from which the [`Timing`] of an engine follows.
///
/// Use this for an engine of your own: send a long prompt twice and take both times to the first token, and the time
/// between two tokens of either answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibration {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens that the engine found in its cache the second time.
    pub cached_tokens: u32,
    /// Seconds to the first token the first time.
    pub cold_seconds: f64,
    /// Seconds to the first token the second time.
    pub cached_seconds: f64,
    /// Seconds between two tokens of an answer.
    pub token_seconds: f64,
}

impl Calibration {
    /// The line through both points; what is left of the time to the first token is that of a step, which both kinds of
    /// step have, and that of a prompt.
    pub fn timing(&self) -> Timing {
        let token =
            ((self.cold_seconds - self.cached_seconds) / f64::from(self.cached_tokens.max(1))).max(0.0);
        let uncached = f64::from(self.prompt_tokens.saturating_sub(self.cached_tokens).max(1));
        let fixed = (self.cached_seconds - uncached * token).max(0.0);
        let step = (self.token_seconds - token).clamp(0.0, fixed);
        Timing { step, prompt: fixed - step, token, weights: 0.0, pair: 0.0, context_token: 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calibrated_engine_takes_the_times_it_was_calibrated_with() {
        let t4 = EngineParameters::preset("t4").unwrap().timing;
        let first_token = |uncached: f64| t4.step + t4.prompt + uncached * t4.token;
        assert!((first_token(1500.0) - 0.280).abs() < 1e-9);
        assert!((first_token(12.0) - 0.110).abs() < 1e-9);
        assert!((t4.step + t4.token - 0.015).abs() < 1e-9);
        assert!((1.0 / t4.token - 8_750.0).abs() < 10.0, "{}", 1.0 / t4.token);
    }

    #[test]
    fn estimates_are_what_the_module_says() {
        let h100 = EngineParameters::preset("h100").unwrap();
        assert!((1.0 / h100.timing.token - 30_800.0).abs() < 50.0, "{}", 1.0 / h100.timing.token);
        assert!((h100.timing.weights - 0.006).abs() < 1e-4);
        assert_eq!(h100.cache_tokens, 396_270);
        assert_eq!(h100.blocks(16), 24_766);
        let error = EngineParameters::preset("a10").unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown engine `a10` (did you mean `a100`?), expected one of: t4, v6e-4, a100, h100, 4xh100-70b"
        );
    }
}
