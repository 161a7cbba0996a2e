// Package neural holds the predictors of expert routing that are trained:
// networks fitted on GoMLX, on any of its backends, and executed in plain Go at
// decision time.
//
// A network has one head for each horizon and target layer, all of one form:
// features of the view, standardised; a residual multilayer perceptron; and a
// linear path from the features, which can start as the target layer's own
// router. Training and execution read the same [speculate.View], so a network
// cannot be trained on what it will not be shown.
//
// [InterLayer], [StatisticsAware] and [HiddenState] are ready configurations,
// [TrainMLP] fits one, [Compare] fits and scores them beside the baselines.
//
// A [Transformer] works on each token once, as soon as its id is known, and
// answers every horizon and layer of that token from what it kept:
// [RoutingTransformer], [LogitTransformer] and [HiddenTransformer] are ready
// configurations, [TrainTransformer] fits one, from random values or from those
// of an earlier training. They are the most accurate, and want the most tokens.
//
// A training that was interrupted continues where [TrainOptions].Resume says; one
// that has only so much time ends when [TrainOptions].Limit says.
package neural
