// Package speculate predicts which experts a mixture-of-experts model will
// choose before it chooses them, and measures how well.
//
// A [Predictor] names the experts of a token t at a MoE layer l from what is
// known at a [Horizon]: h layers earlier (the routing of token t up to layer l-h,
// and that of all earlier tokens), or one token earlier. It sees the trace only
// through a [View], whose methods return nothing that comes later. Causality is
// in the type, and [CheckCausality] tests it by changing the future.
//
// A study divides a trace by document with [Split], fits predictors on the
// training part with [Fit], calibrates them on the validation part with
// [Calibrate], and measures them on the test part with [Evaluate]. While a model
// decodes, a [Session] receives each layer's routing and predicts later layers.
// A type with the four methods of Predictor can take part in all of this.
//
// A model with an encoder has two stacks. Its encoder computes all tokens of a layer
// at once, so that a view of one of them shows all ids, all tokens at the layers up to
// l-h, and nothing above; see [Order]. Distances count within a stack.
//
// Layers below h have no known routing of their own token at distance h and are
// not evaluated: figures at distance h are means over target layers h..L-1, or over
// those of each stack ([Shape.Targets]).
//
// Axis letters: T tokens, L MoE layers, E experts, K experts per token,
// D hidden size, V vocabulary.
//
// Trained networks are in package neural, so that this package does not depend
// on GoMLX.
package speculate
