"""`fastseg new`: what a folder of data holds, with the evidence, and its task.toml.

`look` goes through the steps: `survey` lists files, `partners` and `arranging` find images and
masks, `tools` the label files of other tools, `categories` classes of whole images; `values` and
`meaning` say what mask pixels are, `classfiles` and `known` what classes are called; `groups`,
`pictures` and `recipe` the rest, and `writing` makes the text.
"""
