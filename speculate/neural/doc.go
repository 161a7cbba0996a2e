// Package neural trains networks that predict expert routing. They are trained
// with GoMLX on any of its backends and run in plain Go.
//
// An [MLP] has one head for each horizon and target layer: a residual multilayer
// perceptron of features of the view, and a linear path that can start as the
// target layer's router. [InterLayer], [StatisticsAware], [RouterLogits],
// [CorrectedGate] and [HiddenState] return configurations, and [TrainMLP] trains
// one.
//
// A [Transformer] processes each token once, as soon as its id is known, and
// predicts every horizon and layer of that token from the result, and from it the
// next token's layers before that token's id is known.
// [TransformerConfigs] returns configurations, and [TrainTransformer] trains
// one. Transformers are the most accurate predictors and require the most
// training tokens.
//
// [Compare] trains networks and evaluates them with the predictors of package
// speculate. Training and prediction read the same [speculate.View], so that a
// network learns only from what it can read when it predicts.
//
// # Precision
//
// Networks are trained and stored in 32 bits. In memory, matrices of 8,192 weights
// and more are held in 8 bits where a kernel exists for that: in programs built
// with GOEXPERIMENT=simd for amd64, on CPUs with AVX2 and FMA. That makes decisions
// faster, and changed probabilities by at most .02 in tests. Elsewhere all weights
// have 32 bits.
package neural
