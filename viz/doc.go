// Package viz draws how a mixture-of-experts model routed tokens and how well
// that was predicted: figures as PNG and SVG for a paper, and a self-contained
// HTML report for a colleague.
//
// [NewReport] makes the report of a [Study], which holds the statistics of a
// trace and, optionally, an evaluation, a training and simulations of a cache.
// [Compare] makes that of two. [Report.Figure] returns one of its figures
// by name, and [Report.Save] writes all of them:
//
//	usage:       usage, balance, usage-by-dataset, usage-dataset-1, ...
//	data sets:   entropy-by-dataset, proportions
//	layers:      flow-0, ..., information, transition-0, ..., together-0, ...
//	tokens:      repeats, locality, positions, certainty
//	prediction:  recall-by-distance, recall-by-layer-h1, recall-by-dataset-h1,
//	             recall-by-k-h1, recall-against-time, calibration-error, ...
//	confidence:  calibration-h1, ...
//	cache:       cache-hit-rate, prefetch-timeline
//	offload:     offload-policies, offload-stalls (see [OffloadSection])
//	comparison:  comparison-layers, comparison-usage, beside-usage, ...
//	models:      models-balance, models-recall-bytes, ... (see [ComparisonReport])
//
// Figures of one's own data are [HeatMap], [Lines], [Sankey], [TokenText],
// [TokenPaths] and [Panels] of them. A [Drawing] is any figure that gonum/plot or
// the user's own code draws. All have an [Info] and can be written by [Save],
// [WritePNG] and [WriteSVG] and included in a report.
//
// Colours are distinguishable for colour-blind readers. Curves also differ in
// dash and marker, and heat maps increase in lightness, so that figures can be
// printed in grey. Equal data is drawn as equal bytes. Without data, a figure is
// a sentence that says so; inconsistent data is an error that names the figure.
//
// A report loads nothing from the network and runs no script but its own, which
// its Content-Security-Policy enforces; text from data sets is always displayed
// as text. See [Table.WriteCSV] for text in CSV files.
//
// Axis letters are T tokens, L MoE layers, E experts and K experts per token.
package viz
