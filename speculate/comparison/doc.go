// Package comparison measures how mixture-of-experts models route the same texts,
// in figures that do not depend on their sizes: Mixtral, top-2 of 8, beside the
// encoder and the decoder of a Switch Transformer, top-1 of many.
//
// [Compare] reads the traces and returns a [Result] with a column for each stack of
// each model: balance, dropped tokens, repetition, information about an expert,
// recall of predictors and hits of caches, at equal shares of the experts and at
// equal bytes. [Result.WriteTable] prints it, with a sentence about each row;
// package viz draws it.
//
// A token of a stack with K experts counts K times where all choices are meant
// (balance, recall, caches), and once where its first choice is (repetition,
// information). What a trace does not hold is "not recorded", never a guess.
//
// # Intervals
//
// All intervals are of 95 % and over documents, by the jackknife (Efron and Stein
// 1981, "The jackknife estimate of variance"): each measure is computed again without
// each document, and the interval is 1.96 standard errors to each side. Resampling
// with replacement would move measures such as entropy and mutual information, which
// fewer different documents bias, away from their value.
//
// # Small samples
//
// Counts of few tokens carry information by chance alone, the more so where there are
// many experts and rare tokens. What chance gives is subtracted. For the token and for
// the expert of the layer before it is the mean over all permutations of the experts
// among the tokens, exactly (Vinh, Epps and Bailey 2010, "Information theoretic measures
// for clusterings comparison", equation 24a); for the data set it is the mean over
// permutations of the data sets among the documents, since the tokens of a
// document are alike. The difference is a careful estimate, too small where tokens are
// few: chance is largest where there is no information.
//
// Axis letters: T tokens, L MoE layers, E experts, K experts per token.
package comparison
