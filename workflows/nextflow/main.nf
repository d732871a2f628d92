// From a sample sheet to an evaluated model and embedded slides. docs/workflows.md says how to use it.
//
//   nextflow run workflows/nextflow/main.nf --samples samples.csv --recipe xenium --out results
//
// The sheet has the columns name and download, and condition if there are groups. This file was written from the documentation
// of Nextflow and has not been run.

nextflow.enable.dsl = 2

params.samples = 'samples.csv'
params.recipe = 'xenium'
params.seed = 0
params.settings = ''   // such as '--set train.max_minutes=30'
params.out = 'results'

process PREPARE {
    tag "${name}"
    publishDir params.out, mode: 'copy'

    input:
    tuple val(name), path(download, stageAs: 'download/*'), val(condition)

    output:
    path "prepared/${name}.h5ad", emit: slide
    path "prepared/${name}.html", emit: report

    script:
    """
    cifm prepare '${download}' --name '${name}' --condition '${condition}' --out prepared
    """
}

process TRAIN {
    publishDir params.out, mode: 'copy'

    input:
    path slides, stageAs: 'prepared/*'
    val recipe

    output:
    path 'runs/model', emit: run

    script:
    """
    cifm train '${recipe}' --data prepared ${params.settings} --seed ${params.seed} --out runs/model
    """
}

process EVALUATE {
    publishDir params.out, mode: 'copy'

    input:
    path slides, stageAs: 'prepared/*'
    path run, stageAs: 'model'

    output:
    path 'evaluation', emit: evaluation

    script:
    """
    cifm evaluate prepared --model model --seed ${params.seed} --out evaluation
    """
}

process EMBED {
    tag "${slide.baseName}"
    publishDir params.out, mode: 'copy'

    input:
    path slide
    path run, stageAs: 'model'

    output:
    path "embedded/${slide.baseName}.h5ad", emit: slide

    script:
    """
    cifm embed '${slide}' --model model --seed ${params.seed} --out embedded
    """
}

workflow {
    samples = Channel.fromPath(params.samples, checkIfExists: true)
        .splitCsv(header: true)
        .map { row -> tuple(row.name, file(row.download, checkIfExists: true), row.condition ?: '') }
    PREPARE(samples)
    slides = PREPARE.out.slide.collect()
    TRAIN(slides, params.recipe)
    EVALUATE(slides, TRAIN.out.run)
    EMBED(PREPARE.out.slide, TRAIN.out.run.first())
}
