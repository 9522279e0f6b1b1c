//! Words for things to own, break, build and eat.

/// Toys, tools and treasures.
pub const THINGS: &str = "
toy | made | did
ball | rubber | threw it high into the air
doll | cloth | dressed it up
kite | paper | flew it over the trees
truck | metal | pushed it up and down
teddy bear | wool | hugged it tight
boat | wood | sailed it in a puddle
train | tin | pulled it along on a string
drum | tin | beat it with two sticks
top | wood | spun it round and round
puppet | cloth | made it bow and dance
robot | plastic | wound it up with a key
plane | foam | sent it gliding through the air
wagon | wood | filled it with leaves
whistle | tin | blew it as loudly as possible
hoop | plastic | rolled it along the path
puzzle | cardboard | put it together twice
dinosaur | rubber | made it stomp and roar
music box | brass | wound it up and listened
rocket | cardboard | counted down from ten
yo-yo | wood | let it climb up and down
telescope | brass | looked for far ships through it
spinning wheel | plastic | held it up in the wind
tambourine | leather | shook it and sang
marble | glass | held it up to the light
crown | paper | wore it like a king
dollhouse | wood | moved the tiny chairs about
bucket | plastic | filled it with stones
mask | paper | wore it and made silly faces
slingshot | wood | shot acorns at a can
snow globe | glass | shook it to make the snow fall

keepsake | made | mark
key | iron | it opened the garden gate
ring | silver | it had a tiny blue stone
coin | gold | a queen was stamped on it
button | bone | it came from an old coat
shell | pearl | the sea sang inside it
feather | silk | it weighed almost nothing
bell | brass | it rang with a clear sound
watch | silver | it ticked day and night
locket | gold | there was a picture inside it
compass | brass | it always pointed north
bracelet | copper | it was shaped like a snake
ribbon | satin | it shone like water
badge | tin | there was a star on it
brooch | amber | a fly was trapped in it
thimble | copper | it fit on a thumb
necklace | coral | it had thirty beads
medal | bronze | a runner was carved on it
spoon | silver | it had two letters on it
pocketknife | steel | it had four blades
flute | bamboo | it played just five notes
mirror | crystal | it was no bigger than a hand
candlestick | pewter | it had a dent on one side

clothes
hat / coat / scarf / sweater / shirt / jacket / cap / vest / apron / cape / shawl / raincoat / robe

gift | hint | joy
bike | has two wheels | rode it up and down the street
puppy | has a wet nose | threw a stick for it
book | is full of words | read it from cover to cover
scooter | rolls fast | raced around the block on it
guitar | has six strings | played it all evening
paint box | is full of colors | painted a picture for everyone
globe | shows every country | spun it and pointed at islands
goldfish | never stops swimming | gave it a castle and a name
camera | never forgets a face | took a picture of each guest
pair of skates | likes the ice | skated on the frozen pond
clock | has hands but no fingers | hung it above the bed
sled | waits for the snow | pulled it up the nearest hill
tent | is a house without walls | slept in it that very night
hammock | hangs between two trees | swung in it all afternoon
microscope | makes small things big | looked at a drop of water

need | trouble | solved
umbrella | dark clouds came and rain began to pour | opened it, and everyone stayed dry
blanket | a cold wind began to blow | spread it over everybody's knees
flashlight | it grew so dark that nobody could see the path | lit the way back
map | they took a wrong turn and did not know the way | unfolded it and found the right road
bottle of water | the sun got hot and everyone was thirsty | passed it around
rope | the wheels got stuck in the mud | tied it to a tree, and they all pulled
whistle | thick fog came and they could not see each other | blew it again and again until all were together
bandage | someone fell and scraped a knee | wrapped it around the sore spot
box of sandwiches | the café was closed and all tummies rumbled | shared what was in it
pair of boots | a puddle as wide as a river lay in the way | put them on and carried the bags across
book of songs | the train stopped for two long hours | opened it, and soon everyone was singing
spare button | the strap of a bag came off | sewed it on with a bit of thread
compass | the path ended in the middle of the bushes | held it flat and walked straight north
sun hat | the sand became as hot as a stove | filled it with water and cooled everyone's feet

breakable | how | fix | fixed
vase | it fell from the table and cracked | glue | stuck the pieces back together
jug | it fell onto the stones and split | cement | sealed the crack
chair | one leg snapped off | a hammer and nails | nailed the leg back on
teapot | the handle came off | glue | stuck the handle back on
lamp | it tipped over with a crash | wire | bent the shade into shape
radio | it dropped from the shelf and fell silent | a soldering iron | joined the loose wires
clock | it dropped and stopped ticking | a small screwdriver | put each wheel back in its place
mirror | it slid off the wall | a new frame | hung it up again
bowl | it slipped into the sink and chipped | clay | filled in the chip
picture frame | the corner split | string | tied the corner tight
jewelry box | the lid broke off | tiny screws | put a new hinge on the lid
flowerpot | it rolled off the sill | plaster | joined the two halves
curtain | it got caught and tore | needle and thread | stitched up the tear
umbrella | a rib bent the wrong way | pliers | straightened the rib

build | from | use
treehouse | boards | sat in it and looked over the roofs
raft | logs | floated on it across the pond
fort | branches | guarded it like knights
go-cart | crates | rolled down the hill in it
birdhouse | planks | watched a pair of finches move in
snow castle | snow blocks | threw snowballs from its towers
puppet stage | boxes | put on a play about a dragon
playhouse | cardboard | drank pretend tea in it
bridge | stones | crossed the stream without wet feet
seesaw | a beam | went up and down until supper
dam | clay | made a small lake for the paper boats

part | use
hammer | hit the nails
bag of nails | hold it all together
rope | tie the corners
bucket of paint | make it bright
saw | cut the pieces
ladder | reach the top
roll of tape | cover the cracks
old sheet | make a flag
box of screws | make it strong
shovel | dig the holes
pair of gloves | protect their hands
brush | spread the paint
wheelbarrow | carry the heavy parts
measuring tape | get the length right

instrument | sound | played
drum | boom | banged on
flute | toot | blew into
violin | screech | scraped on
trumpet | tara | puffed into
guitar | strum | plucked
bell | ding | rang
piano | plink | hammered on
tuba | oompah | blew into
triangle | ting | tapped
banjo | twang | picked at
cymbal | crash | slapped
harp | pling | stroked
accordion | wheeze | squeezed

junk
an old can / a pile of dry leaves / a broken bottle / a wet sock / a rusty nail / a snail / an empty box
a torn newspaper / a gray pebble / a sleepy toad / a dirty feather / a cracked cup / a spider web / a lonely shoe

chest
old coins / glass beads / chocolate coins / old letters / shiny stones / toy soldiers / silver spoons
books about pirates / sea shells / marbles of every color / faded photographs / paper jewels / postcards from far countries

prize
gold ribbon / silver cup / big chocolate cake / shiny medal / basket of fruit / new book / paper crown / ticket to the circus / bag of marbles
";

/// Food, dishes and garden plants.
pub const FOOD: &str = "
fruit | one | taste
apples | apple | sweet
cookies | cookie | crunchy
berries | berry | juicy
oranges | orange | juicy
pears | pear | soft
nuts | nut | crunchy
plums | plum | sweet
cherries | cherry | tart
bananas | banana | soft
carrots | carrot | crisp
muffins | muffin | warm
peaches | peach | fuzzy
pancakes | pancake | fluffy
grapes | grape | cool
candies | candy | sticky
strawberries | strawberry | ripe
buns | bun | fresh
figs | fig | rich
pretzels | pretzel | salty
walnuts | walnut | dry
dumplings | dumpling | hot
apricots | apricot | golden
tarts | tart | buttery

dish | first | second | third | cooked | tasted
apple pie | apples | flour | butter | baked | sweet
vegetable soup | carrots | potatoes | salt | boiled | hearty
chocolate cake | cocoa | eggs | sugar | baked | rich
potato mash | potatoes | milk | butter | boiled | fluffy
bread | flour | warm water | yeast | baked | crusty
pizza | dough | tomatoes | cheese | baked | spicy
fruit salad | melons | grapes | lemon juice | chilled | fresh
porridge | oats | milk | honey | boiled | creamy
plum jam | plums | sugar | lemon peel | boiled | sticky
noodle soup | noodles | mushrooms | parsley | boiled | tender
pumpkin stew | pumpkin | onions | pepper | simmered | thick
gingerbread | ginger | molasses | flour | baked | dark
egg salad | eggs | yogurt | chives | mixed | spicy
rice pudding | rice | cream | cinnamon | simmered | smooth

plant | grew | pest | guard
sunflowers | tall and golden | the birds | made a scarecrow from an old coat
pumpkins | round and orange | the snails | put a ring of ashes around the bed
tomatoes | plump and red | the beetles | picked the bugs off one by one
carrots | long and crisp | the rabbits | built a low fence of sticks
beans | high up the poles | the mice | hung little bells on strings
strawberries | sweet and red | the blackbirds | stretched a net over the plants
roses | soft and pink | the greenfly | washed the leaves with soap
tulips | straight and bright | the deer | tied rags to the gate
melons | heavy and sweet | the moles | stuck windmills into the ground
peas | plump and green | the pigeons | rattled a pan of stones
cabbages | wide and crinkly | the caterpillars | carried each one to the weeds
corn stalks | taller than the fence | the crows | let old spoons dangle in the wind

supper
soup / warm bread / roast chicken / stew / porridge / cheese toast / fish pie / tomato soup / fried fish / meatloaf / rice pudding / cabbage soup / pasta / potato salad
";
