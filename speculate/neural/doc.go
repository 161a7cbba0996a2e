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
// [Train] fits one, [Compare] fits and scores them beside the baselines. [LSTM]
// is the earlier work's network, for comparison; [TrainRecurrent] fits it. A
// training that was interrupted continues where [Options].Resume says.
package neural
