"""The classes of emoji scenes: what an emoji is, whatever its skin tone, gender, colour or style.

A class has one or more emoji, each with the noun by which a caption calls it: class `apple` has "a red apple" and "a green
apple". A noun has a colour only where the emoji's own name has it. Classes are counted from 1, in maps as in boxes; 0 is the
background. A person's class has all skin tones. Crowns and sunglasses are left out: `emoji_pairs` keeps combinations of
them for tests.
"""

from __future__ import annotations

from collections.abc import Mapping

BACKGROUND = "background"
# class: emoji of emojibase's labels; "label=noun" where a person would say it otherwise
_TABLE = """
dog: dog, dog face=dog, guide dog=dog, poodle
cat: cat, cat face=cat, black cat
monkey: monkey, monkey face=monkey
mouse: mouse, mouse face=mouse
hamster: hamster
rabbit: rabbit, rabbit face=rabbit
pig: pig, pig face=pig
lion: lion
zebra: zebra
deer: deer
camel: camel, two-hump camel=camel
elephant: elephant
giraffe: giraffe
unicorn: unicorn
fox: fox
kangaroo: kangaroo
bat: bat
bird: bird, black bird
parrot: parrot
duck: duck
owl: owl
frog: frog
turtle: turtle
dragon: dragon, dragon face=dragon
dolphin: dolphin
seal: seal
fish: fish, tropical fish
shark: shark
jellyfish: jellyfish
crab: crab
seashell: spiral shell=seashell
scorpion: scorpion
mosquito: mosquito
tulip: tulip
bouquet: bouquet=bouquet of flowers
tree: deciduous tree=tree, evergreen tree=fir tree
cactus: cactus
potted plant: potted plant
maple leaf: maple leaf
mushroom: mushroom, brown mushroom
apple: red apple, green apple
banana: banana
pear: pear
melon: melon
watermelon: watermelon
bread: bread=loaf of bread
pretzel: pretzel
cookie: cookie
egg: egg
pie: pie
pizza: pizza=slice of pizza
hamburger: hamburger
ice cream: soft ice cream=ice cream cone, ice cream=cup of ice cream, shaved ice=bowl of shaved ice
beer: beer mug=mug of beer
wine: wine glass=glass of wine
cocktail: cocktail glass=cocktail, tropical drink
castle: castle
house: house, house with garden=house
train: train, high-speed train=train, bullet train, locomotive=steam train
bus: bus, oncoming bus=bus, trolleybus=bus, minibus
car: automobile=car, oncoming automobile=car, sport utility vehicle=car, racing car
police car: police car, oncoming police car=police car
fire truck: fire engine=fire truck
truck: delivery truck=truck, articulated lorry=truck, pickup truck
tractor: tractor
bicycle: bicycle
scooter: kick scooter=scooter
traffic light: vertical traffic light=traffic light, horizontal traffic light=traffic light
airplane: airplane, small airplane=airplane
rocket: rocket
flying saucer: flying saucer
canoe: canoe
anchor: anchor
sun: sun, sun with face=sun
star: star, glowing star=star
umbrella: umbrella, umbrella with rain drops=umbrella, closed umbrella=umbrella
snowman: snowman, snowman without snow=snowman
heart: red heart, orange heart, yellow heart, green heart, blue heart, purple heart, grey heart, pink heart
ball: soccer ball, basketball, volleyball, baseball
medal: sports medal=medal, military medal=medal, 1st place medal=medal, 2nd place medal=medal, 3rd place medal=medal
puzzle piece: puzzle piece
guitar: guitar
violin: violin
banjo: banjo
saxophone: saxophone
drum: drum, long drum=drum
hat: top hat, woman’s hat=sun hat, billed cap=baseball cap
helmet: rescue worker’s helmet=helmet, military helmet
dress: dress
jeans: jeans
necktie: necktie
backpack: backpack
book: open book, closed book, green book, blue book, orange book
camera: camera, camera with flash=camera
television: television
clock: alarm clock, eight o’clock=clock, ten o’clock=clock, three o’clock=clock
envelope: envelope
box: package=cardboard box
pencil: pencil
briefcase: briefcase
key: key, old key
hammer: hammer
saw: carpentry saw=saw
ladder: ladder
door: door
toilet: toilet
basket: basket
syringe: syringe
globe: globe showing Americas=globe, globe showing Europe-Africa=globe, globe showing Asia-Australia=globe
smiling face: grinning face=smiling face, grinning face with big eyes=smiling face, grinning face with smiling eyes=smiling face
crying face: loudly crying face=crying face, crying face
robot: robot
ghost: ghost
astronaut: astronaut, man astronaut=astronaut, woman astronaut=astronaut
firefighter: firefighter, man firefighter=firefighter, woman firefighter=firefighter
police officer: police officer, man police officer=police officer, woman police officer=police officer
wizard: mage=wizard, man mage=wizard, woman mage=wizard
vampire: vampire, man vampire=vampire, woman vampire=vampire
mermaid: mermaid, merman
"""


def _parse(table: str) -> dict[str, dict[str, str]]:
    classes = {}
    for line in table.strip().splitlines():
        name, _, members = line.partition(": ")
        pairs = (member.partition("=") for member in members.split(", "))
        classes[name] = {label: noun or label for label, _, noun in pairs}
    return classes


# {class: {emojibase label without skin tone: noun}}, in the order of the indices, which begin at 1
CLASSES: Mapping[str, Mapping[str, str]] = _parse(_TABLE)
NAMES: tuple[str, ...] = (BACKGROUND, *CLASSES)
_MEMBERS = {label: (index, noun) for index, name in enumerate(CLASSES, start=1) for label, noun in CLASSES[name].items()}


def find(label: str, toned: bool) -> tuple[int, str] | None:
    """(class index, noun) of an emoji by its label, `mermaid: dark skin tone` where it is toned; None where no class has it."""
    return _MEMBERS.get(label.split(": ", maxsplit=1)[0] if toned else label)
