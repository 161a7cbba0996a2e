// Package viz draws how a mixture-of-experts model routed tokens and how well
// that was predicted: figures as PNG and SVG for a paper, and a self-contained
// HTML report for a colleague.
//
// [NewReport] makes the report of a [Study], which holds the statistics of a
// trace and, optionally, an evaluation, a training and simulations of a cache.
// [Compare] makes the report of two. [Report.Figure] returns one of its figures
// by name, and [Report.Save] writes all of them:
//
//	usage, balance, usage-by-dataset, usage-dataset-1, ...  usage of experts
//	entropy-by-dataset, proportions                         data sets
//	flow-0, ..., transition-0, ..., information, together-0, ...  layers
//	repeats, locality, positions, certainty                 tokens
//	recall-by-distance, recall-by-layer-h1, recall-by-dataset-h1, ...  prediction
//	calibration-h1, cache-hit-rate, prefetch-timeline       confidence and cache
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
